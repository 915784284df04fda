"""Preprocessing that a data set declares: detrending, standardisation fitted on the training split, clamp."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from neuroimagen.data_shards.common.blas import single_blas_thread
from neuroimagen.data_shards.common.errors import UsageError, UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What is done to every segment before it is stored, in this order. The default changes nothing."""

    detrend: bool = False
    """Subtract the least-squares line from each channel of each segment."""
    standardise: bool = False
    """Subtract each channel's mean and divide by its standard deviation, both over the training split."""
    clamp: float | None = None
    """Limit values to ±clamp: after standardising, in standard deviations."""

    def __post_init__(self) -> None:
        if self.clamp is not None and not 0 < self.clamp < math.inf:
            raise UsageError(f"clamp is {self.clamp}; it must be a positive, finite number.")


class FittedPreprocessing:
    """A Preprocessing with its fitted means and standard deviations, ready to apply."""

    def __init__(self, options: Preprocessing, mean: np.ndarray | None, std: np.ndarray | None) -> None:
        self.options = options
        self.mean, self.std = mean, std

    @classmethod
    def fit(cls, options: Preprocessing, training_segments: Iterable[np.ndarray]) -> "FittedPreprocessing":
        """Fit on the training split, given as float32 [C, T] segments; they are read only when standardising.

        Raises UserError if there is no training segment or a channel never varies.
        """
        if not options.standardise:
            return cls(options, None, None)
        count, total, squares = 0, np.float64(0), np.float64(0)
        for eeg in training_segments:
            eeg = (_detrended(eeg) if options.detrend else eeg).astype(np.float64)
            count += eeg.shape[1]
            total = total + eeg.sum(axis=1)
            squares = squares + np.square(eeg).sum(axis=1)
        if count == 0:
            raise UserError("standardising needs training segments, and the training split is empty.")
        mean = np.asarray(total / count)
        std = np.sqrt(np.maximum(squares / count - mean**2, 0))
        # Relative to the mean, because float64 sums of a constant channel are not exact.
        if (flat := np.flatnonzero(std <= 1e-7 * np.maximum(np.abs(mean), 1e-30))).size:
            raise UserError(
                f"channels {flat.tolist()[:20]} never vary in the training split and can't be standardised. Leave them "
                "out, or do not standardise."
            )
        return cls(options, mean.astype(np.float32), std.astype(np.float32))

    def __call__(self, eeg: np.ndarray) -> np.ndarray:
        """float32 [C, T] → float32 [C, T]."""
        if self.options.detrend:
            eeg = _detrended(eeg)
        if self.mean is not None and self.std is not None:
            eeg = (eeg - self.mean[:, None]) / self.std[:, None]
        if self.options.clamp is not None:
            eeg = np.clip(eeg, -self.options.clamp, self.options.clamp)
        return eeg

    def summary(self) -> dict[str, Any]:
        """For dataset.json: the options and the fitted values."""
        return {
            **dataclasses.asdict(self.options),
            "channel_mean": None if self.mean is None else self.mean.tolist(),
            "channel_std": None if self.std is None else self.std.tolist(),
        }


def _detrended(eeg: np.ndarray) -> np.ndarray:
    """float32 [C, T] without each channel's least-squares line."""
    time = np.linspace(-1, 1, eeg.shape[1])
    centred = eeg - eeg.mean(axis=1, dtype=np.float64)[:, None]
    with single_blas_thread():
        slope = centred @ time / (time @ time)
    return (centred - slope[:, None] * time).astype(np.float32)
