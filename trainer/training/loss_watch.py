"""Tells a loss that is not finite, or is diverging, before the optimiser has seen it."""

import math
import statistics
from collections.abc import Mapping

MEMORY = 50
"""Losses of one network that the newest is held against."""


class LossWatch:
    """The last losses of each network; a pure function of the losses, so every rank comes to the same verdict.

    A loss diverges when its size is more than `factor` times the median size of the last 50, once there are 50. The
    median stays where it is through a few outliers, and follows a loss that falls by orders of magnitude.
    """

    def __init__(self, factor: float | None, recent: Mapping[str, list[float]]) -> None:
        self._factor = factor
        self.recent = {name: list(losses) for name, losses in recent.items()}

    def verdict(self, network: str, loss: float) -> str | None:
        """What is wrong with `loss`, the mean over ranks; None, and it is remembered, if nothing is."""
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
