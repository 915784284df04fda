"""Stored segments whose bytes are compared with the index, and the replacement of damaged ones."""

import logging
import threading
from collections.abc import Iterator
from typing import Literal

import numpy as np

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.format.storage import CorruptSampleError

_logger = logging.getLogger(__name__)
_MAX_CORRUPT_FRACTION = 0.01
"""With on_corrupt="skip", more damage than this is still an error, so that a failing disk is noticed."""


class CheckedSegments:
    """Stored segments of a data set, each compared with its CRC. Safe to use from several threads.

    on_corrupt: a damaged segment is an error, or with "skip" is replaced by the next undamaged segment of its class and
    split, which is the same on every rank.
    """

    def __init__(self, dataset: Dataset, on_corrupt: Literal["error", "skip"]) -> None:
        self._dataset = dataset
        self._skip = on_corrupt == "skip"
        self._counting = threading.Lock()
        self.corrupt: dict[int, str] = {}
        """Row → what is wrong with it, for every damaged segment that was replaced."""

    def read(self, rows: np.ndarray) -> Iterator[memoryview]:
        """The float16 bytes of segments, in order. The row of a replacement is written into `rows`."""
        position = 0
        while position < len(rows):
            try:
                for content in self._dataset.eeg_contents(rows[position:]):
                    yield content
                    position += 1
            except CorruptSampleError as error:
                if not self._skip:
                    raise
                rows[position], content = self._replacement(int(rows[position]), str(error))
                yield content
                position += 1

    def _replacement(self, row: int, problem: str) -> tuple[int, memoryview]:
        """Row and bytes of the segment that replaces a damaged one."""
        self._count(row, problem)
        index = self._dataset.index
        alike = np.flatnonzero((index.label == index.label[row]) & (index.split_code == index.split_code[row]))
        for candidate in np.roll(alike, -int(np.searchsorted(alike, row)) - 1)[:-1].tolist():
            try:
                return candidate, self._dataset.eeg_bytes(candidate)
            except CorruptSampleError as error:
                self._count(candidate, str(error))
        raise CorruptSampleError(f"{self.corrupt[row]} All other segments of its class and split are damaged too.")

    def _count(self, row: int, problem: str) -> None:
        with self._counting:
            new = row not in self.corrupt
            self.corrupt.setdefault(row, problem)
            num_corrupt = len(self.corrupt)
        if new:
            _logger.warning("damaged segment replaced by another of its class: %s", problem)
        if num_corrupt > max(1, _MAX_CORRUPT_FRACTION * len(self._dataset)):
            raise CorruptSampleError(
                f"{num_corrupt} of {len(self._dataset)} segments are damaged, more than 1 %; the last: {problem} "
                "Run `data verify`."
            )
