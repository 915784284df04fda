"""95 % intervals by bootstrap over stimuli: the segments of a stimulus are drawn together."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from neuroimagen.data_shards.common.arrays import Floats, Integers

NUM_RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure with its 95 % interval (None where there is none) and the number of items behind it."""

    value: float
    low: float | None
    high: float | None
    n: int


def bootstrap_mean(
    values: Floats, stimuli: Integers, *, is_share: bool = False, seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> Estimate:
    """Mean over items, percentile interval over resampled stimuli; values [N] (NaN: item left out), stimuli [N].

    `is_share`: values lie in 0..1. If all of them are 0, or all are 1, all resamples are equal; the interval is then
    that of Clopper and Pearson (1934) over the G stimuli, to 1 − 0.025^(1/G), or from 0.025^(1/G): the mean of a share
    is at least the probability p of a 1, and G ones have the probability p^G.
    """
    kept = ~np.isnan(values)
    if not kept.any():
        return Estimate(value=float("nan"), low=None, high=None, n=0)
    values, stimuli = values[kept], stimuli[kept]
    clusters = _cluster_sums([values], [stimuli])
    low, high = _interval(clusters, seed=seed, num_resamples=num_resamples)
    if is_share and low is not None:
        bound = 0.025 ** (1 / len(clusters[0][0]))
        if (values == 1).all():
            low = bound
        elif (values == 0).all():
            high = 1 - bound
    return Estimate(value=float(values.mean()), low=low, high=high, n=len(values))


def bootstrap_difference(
    values: Floats,
    stimuli: Integers,
    other_values: Floats,
    other_stimuli: Integers,
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> Estimate:
    """Difference of two means; each resample draws the same stimuli for both, so variance that they share cancels."""
    kept, other_kept = ~np.isnan(values), ~np.isnan(other_values)
    values, stimuli = values[kept], stimuli[kept]
    other_values, other_stimuli = other_values[other_kept], other_stimuli[other_kept]
    if not len(values) or not len(other_values):
        return Estimate(value=float("nan"), low=None, high=None, n=0)
    clusters = _cluster_sums([values, other_values], [stimuli, other_stimuli])
    low, high = _interval(clusters, seed=seed, num_resamples=num_resamples)
    return Estimate(value=float(values.mean() - other_values.mean()), low=low, high=high, n=len(values))


def _cluster_sums(values: list[Floats], stimuli: list[Integers]) -> list[tuple[Floats, Floats]]:
    """For each set of values: sums and counts over the G stimuli that any set holds, each [G]."""
    present = np.unique(np.concatenate(stimuli))
    sums: list[tuple[Floats, Floats]] = []
    for value, stimulus in zip(values, stimuli, strict=True):
        index = np.searchsorted(present, stimulus)
        sums.append(
            (
                np.bincount(index, weights=value, minlength=len(present)).astype(np.float64),
                np.bincount(index, minlength=len(present)).astype(np.float64),
            )
        )
    return sums


def _interval(
    clusters: list[tuple[Floats, Floats]], *, seed: int, num_resamples: int
) -> tuple[float | None, float | None]:
    """Percentile interval of mean (one set) or difference of means (two sets); None with fewer than two stimuli."""
    num_stimuli = len(clusters[0][0])
    if num_stimuli < 2:
        return None, None
    weights = _resamples(num_stimuli, num_resamples, seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = [weights @ sums / (weights @ counts) for sums, counts in clusters]
    figures = means[0] if len(means) == 1 else means[0] - means[1]
    low, high = np.nanpercentile(figures, [2.5, 97.5])
    return float(low), float(high)


@lru_cache(maxsize=4)  # all metrics of a condition use the same resamples, and drawing them takes most of the time
def _resamples(num_stimuli: int, num_resamples: int, seed: int) -> Floats:
    """How often each resample draws each stimulus, float32 [num_resamples, num_stimuli]."""
    shares = np.full(num_stimuli, 1 / num_stimuli)
    return np.random.default_rng(seed).multinomial(num_stimuli, shares, size=num_resamples).astype(np.float32)
