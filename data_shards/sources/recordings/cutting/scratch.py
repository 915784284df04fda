"""A two-dimensional array in a file, of which only the part in use is mapped."""

from pathlib import Path

import numpy as np


class Scratch:
    """float32 [channels, samples] in a file. Each call maps the file anew, so that no pages of it stay resident."""

    def __init__(self, path: Path, num_channels: int, num_samples: int) -> None:
        self._path, self._shape = path, (num_channels, num_samples)
        with path.open("wb") as file:
            file.truncate(4 * num_channels * num_samples)

    def write(self, channels: slice, start: int, values: np.ndarray) -> None:
        """Store values [channels, n] from sample `start` on."""
        mapped = np.memmap(self._path, np.float32, "r+", shape=self._shape)
        mapped[channels, start : start + values.shape[1]] = values

    def read(self, channels: slice, start: int, stop: int) -> np.ndarray:
        """float64 [channels, stop − start]."""
        mapped = np.memmap(self._path, np.float32, "r", shape=self._shape)
        return mapped[channels, start:stop].astype(np.float64)
