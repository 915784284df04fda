"""How far a training job is: a progress bar, or a line of text now and then."""

import os
import sys
import time
from typing import Any

from neuroimagen.data_shards.common.progress import bar
from neuroimagen.trainer.runs.metrics_lines import metrics_line
from neuroimagen.trainer.runs.run_folder import StageFolder

LINE_SECONDS = 60.0
"""Time between two lines of progress where standard error is not a terminal."""


def summary(figures: dict[str, Any]) -> str:
    """Losses, speed, waiting for data and memory of one line of metrics.jsonl, as one line of text."""
    texts = [f"{key.replace('_', ' ')} {value:.4g}" for key, value in figures.items() if key.endswith("loss")]
    if "segments_per_second" in figures:
        texts.append(f"{figures['segments_per_second']:.0f} segments/s")
        texts.append(f"{100 * figures['data_wait_share']:.1f} % waiting for data")
        texts.append(f"{figures['memory_gib']:.1f} GiB")
    return ", ".join(texts)


class Progress:
    """Shows how far a stage is, from its metrics.jsonl.

    On a terminal this is a progress bar; elsewhere it is one line per minute and one per validation.
    """

    def __init__(self, folder: StageFolder, steps: int) -> None:
        self._path = folder.metrics
        self._name = folder.stage
        self._file_id: int | None = None
        self._position = 0
        self._validated = 0
        """The last step whose validation was shown."""
        self._steps = steps
        self._began: tuple[float, int] | None = None
        """Time and step of the first line, from which the remaining time is estimated."""
        self._last_line = time.monotonic()
        self._bar = bar(steps, desc=folder.stage, unit="step")

    def update(self) -> None:
        """Show what the ranks have logged since the last call."""
        try:
            file = self._path.open(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return
        with file:
            status = os.fstat(file.fileno())
            if status.st_ino != self._file_id or status.st_size < self._position:
                self._file_id, self._position = status.st_ino, 0  # a resumed run replaces the file
            file.seek(self._position)
            while (line := file.readline()).endswith("\n"):
                if (figures := metrics_line(line)) is not None:
                    self._show(figures)
                self._position = file.tell()

    def _show(self, figures: dict[str, Any]) -> None:
        step = int(figures.pop("step"))
        self._bar.update(step - self._bar.n)
        validation = {key: value for key, value in figures.items() if key.startswith("val_")}
        if validation and step <= self._validated:
            return  # shown before the resume
        if validation:
            self._validated = step
            text = ", ".join(f"{key.removeprefix('val_')} {value:.4g}" for key, value in validation.items())
            if self._bar.disable:
                print(f"{self._name}: step {step}, validation {text}", flush=True)
            else:
                self._bar.write(f"{self._name}: step {step}, validation {text}", file=sys.stderr)
            return
        now = time.monotonic()
        if self._began is None:
            self._began = (now, step)
        if not self._bar.disable:
            self._bar.set_postfix_str(summary(figures))
        elif now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            done = step - self._began[1]
            left = (self._steps - step) * (now - self._began[0]) / done if done else 0.0
            time_left = f", about {left / 60:.0f} min left" if done else ""
            print(f"{self._name}: step {step} of {self._steps}, {summary(figures)}{time_left}", flush=True)

    def close(self) -> None:
        self._bar.close()
