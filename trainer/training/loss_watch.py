"""Find a loss that is not finite, or diverges, before the optimiser's step uses its gradient."""

import json
import math
import statistics
import sys
from collections.abc import Mapping

from neuroimagen.trainer.runs.run_folder import StageFolder
from neuroimagen.trainer.training.process_group import ProcessGroup

MEMORY = 50
"""Number of a network's last losses that the newest is compared with."""


class BadLossError(Exception):
    """A loss that the optimiser must not use; raised on every rank, at the same step."""

    def __init__(self, what: str, step: int, verdict: str, keys: list[str]) -> None:
        super().__init__(f"{what}: the loss {verdict} at step {step}")
        self.step = step
        self.keys = keys
        """Of this rank's segments."""

    def advice(self, skipped: int) -> str:
        """The message for the user; `skipped` counts the run's bad batches so far."""
        shown = ", ".join(self.keys[:8])
        more = f" This was bad batch {skipped}." if skipped > 1 else ""
        return (
            f"{self}; this rank's batch began with segments {shown} (bad-batches.jsonl has them all).{more} Lower the "
            "learning rate, look at those segments (`neuroimagen data verify`), or set on_bad_loss=skip."
        )


class LossWatch:
    """The last losses of each network; a pure function of the losses, so that every rank comes to the same verdict.

    A loss diverges when its size is more than `factor` times the median size of the last 50, once there are 50. The
    median stays where it is through a few outliers, and follows a loss that falls by orders of magnitude.
    """

    def __init__(self, factor: float | None, recent: Mapping[str, list[float]]) -> None:
        self._factor = factor
        self.recent = {name: list(losses) for name, losses in recent.items()}

    def verdict(self, network: str, loss: float) -> str | None:
        """What is wrong with `loss`, the mean over ranks. None if nothing is; the loss is then kept for comparison."""
        if not math.isfinite(loss):
            return "is not finite"
        seen = self.recent.setdefault(network, [])
        if self._factor is not None and len(seen) == MEMORY:
            usual = statistics.median(map(abs, seen))
            if abs(loss) > self._factor * usual and usual > 0:
                return f"is {loss:.4g}, more than {self._factor:g} times its median of {usual:.4g}"
        seen.append(loss)
        del seen[:-MEMORY]
        return None


def report_bad_batch(error: BadLossError, folder: StageFolder, group: ProcessGroup) -> None:
    """Append the step and the segments of every rank to bad-batches.jsonl. A collective."""
    found = group.messages(" ".join(error.keys))
    if group.is_first:
        print(f"{error}; its segments are in {folder.bad_batches}", file=sys.stderr, flush=True)
        line = {"step": error.step, "problem": str(error), "segments": [key for keys in found for key in keys.split()]}
        with folder.bad_batches.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
