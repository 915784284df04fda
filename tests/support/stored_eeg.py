"""What storing EEG as float16 may cost, as data_shards/format/encoding.py states it."""

import numpy as np


def assert_as_stored(read: np.ndarray, eeg: np.ndarray, *, roundings: int = 1) -> None:
    """`read` [C, T] is what storing `eeg` allows: half a unit of float16, or 2^-25 of the segment's largest value."""
    eeg = np.asarray(eeg, dtype=np.float64)
    allowed = np.maximum(np.abs(eeg) * 2.0**-11, np.abs(eeg).max() * 2.0**-25)
    assert read.shape == eeg.shape
    assert (np.abs(read - eeg) <= roundings * allowed).all()
