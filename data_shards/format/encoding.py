"""EEG as a shard stores it: float16 with a power-of-two scale per segment, so that scaling itself is exact."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

STORED_EXPONENT = 15
"""Stored values stay below 2^15: half of the largest number of float16."""


def encode_eeg(eeg: np.ndarray) -> tuple[np.ndarray, float]:
    """float32 [C, T], finite → (float16 [C, T], scale) with eeg ≈ stored × scale.

    scale is 1 where 1 ≤ max|eeg| < 2^15, as for standardised EEG and for microvolts, because reading is faster without
    a multiplication, and for a segment of zeros. Otherwise it is 2^(e - 15), where 2^e is the smallest power of two
    above max|eeg|. The error is at most 2^-11 of each value, or 2^-25 of the segment's largest value, whichever is
    larger: the second is half a step of a 24-bit amplifier whose range is that value.
    """
    largest = float(np.max(np.abs(eeg)))
    exponent = int(np.frexp(largest)[1])
    if largest == 0 or 1 <= exponent <= STORED_EXPONENT:
        return eeg.astype("<f2"), 1.0
    # The bounds keep the scale and its inverse normal numbers of float32.
    scale = 2.0 ** min(max(exponent - STORED_EXPONENT, -100), 112)
    return (eeg.astype(np.float32, copy=False) * np.float32(1 / scale)).astype("<f2"), scale


def decode_eeg(stored: np.ndarray, scale: float) -> np.ndarray:
    """float16 [C, T] and its scale → float32 [C, T]."""
    return stored.astype(np.float32) * np.float32(scale)


@dataclasses.dataclass
class RoundTripError:
    """Accumulates the error of storing as float16, relative to each segment's root mean square."""

    worst_rms: float = 0.0
    worst_absolute: float = 0.0

    def add(self, eeg: np.ndarray, stored: np.ndarray, scale: float) -> None:
        """Compare a segment [C, T] with what a reader will decode."""
        error = decode_eeg(stored, scale) - eeg
        rms = float(np.sqrt(np.mean(np.square(eeg, dtype=np.float64))))
        if rms > 0:
            self.worst_rms = max(self.worst_rms, float(np.sqrt(np.mean(np.square(error, dtype=np.float64)))) / rms)
            self.worst_absolute = max(self.worst_absolute, float(np.max(np.abs(error))) / rms)

    @classmethod
    def worst(cls, errors: Sequence[Mapping[str, float]]) -> "RoundTripError":
        """The largest of several, given as dictionaries of their fields."""
        return cls(*(max(error[name] for error in errors) for name in ("worst_rms", "worst_absolute")))

    def summary(self) -> dict[str, float]:
        """The largest over all segments of RMS of the error / RMS of the segment, and of largest error / RMS."""
        return {
            "round_trip_rms_error": float(f"{self.worst_rms:.3g}"),
            "round_trip_largest_error": float(f"{self.worst_absolute:.3g}"),
        }
