"""95 % intervals of figures that were measured with a few seeds, each on the same few validation segments.

Seeds alone do not give the interval: accuracies are counts, so the differences of two seeds can be equal by chance.
Stimuli alone do not give it either: another seed would have given another figure.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from neuroimagen.data_shards.common.arrays import Integers

CONFIDENCE = 0.95
SUBTRACTED = 0.5
"""Share of the residual mean square that is subtracted from that of the seeds. All of it would make the estimate of the
seeds' variance unbiased; but with two or three seeds it is then often 0, and the interval of clearly different seeds
covers in 87 to 92 % of all cases, not in 95 %. Nothing subtracted covers in more than 99 % where seeds are alike. Half
of it covered in 96 to 99 % of 2000 simulated studies each (tests/tune/test_intervals.py), and in 90 % where two seeds
differ by many times the error of the counts."""
Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over seeds with its 95 % interval, cut to the figure's range (None for a single seed)."""

    mean: float
    low: float | None
    high: float | None
    n: int
    """Seeds."""


def difference_range(within: Range) -> Range:
    """The range of the difference of two figures that have the range `within`."""
    low, high = within
    return low - high, high - low


def student_interval(values: Sequence[float], *, within: Range = (-math.inf, math.inf)) -> Interval:
    """Mean of independent values and its 95 % interval by Student's t distribution with n − 1 degrees of freedom.

    The interval is cut to `within`, the range of the values and so of their mean: that of two seeds would extend far
    beyond it.
    """
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return Interval(mean=mean, low=None, high=None, n=n)
    return _cut(mean, _t(n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n), within, n)


def crossed_interval(values: npt.NDArray[np.float64], stimuli: Integers, *, within: Range) -> Interval:
    """Mean of figures that S seeds have on the same N segments, and its interval for other seeds and other stimuli.

    values [S, N]; stimuli [N], whose segments are one cluster. With the cells x_sg, the means over the segments of
    stimulus g with seed s (weighted by the number of segments, so that their mean is that over segments), seeds and
    stimuli are two crossed random factors without replication. Their mean squares are MS_s, MS_g and MS_e of the
    residual (Searle et al. 1992, ch. 4.7), and the half width h is

        h² = (t²(S − 1) · max(0, MS_s − MS_e / 2) + t²(G − 1) · max(MS_g, MS_e)) / (S · G)

    A paired comparison gives the differences of two settings on the same segments with the same seeds. If no cell
    differs from another, the interval is as wide as what G stimuli cannot have shown (`_unseen`).
    """
    num_seeds, mean = len(values), float(values.mean())
    present, index, counts = np.unique(stimuli, return_inverse=True, return_counts=True)
    num_stimuli = len(present)
    if num_seeds < 2 or num_stimuli < 2:
        return Interval(mean=mean, low=None, high=None, n=num_seeds)
    sums = np.stack([np.bincount(index, weights=row, minlength=num_stimuli) for row in values])  # [S, G]
    cells = mean + (sums - mean * counts) * num_stimuli / len(stimuli)
    of_seeds, of_stimuli = cells.mean(axis=1), cells.mean(axis=0)
    residual = cells - of_seeds[:, None] - of_stimuli + mean
    seeds = num_stimuli * float(np.var(of_seeds, ddof=1))
    stimulus = num_seeds * float(np.var(of_stimuli, ddof=1))
    rest = float((residual**2).sum()) / ((num_seeds - 1) * (num_stimuli - 1))
    square = _t(num_seeds - 1) ** 2 * max(0.0, seeds - SUBTRACTED * rest)
    square += _t(num_stimuli - 1) ** 2 * max(stimulus, rest)
    half = math.sqrt(square / (num_seeds * num_stimuli))
    if half < 1e-9 * (within[1] - within[0]):  # rounding of equal cells
        half = _unseen(num_stimuli, within)
    return _cut(mean, half, within, num_seeds)


def counted_interval(values: Sequence[float], *, num_stimuli: int, within: Range) -> Interval:
    """The interval of `crossed_interval`'s mean where only the figure of each seed is known, [S]: a wider one.

    Student's interval of the seeds, and the largest variance that a mean over `num_stimuli` can have beside it, added
    as squares. For a figure within [low, high] that is (high − mean)(mean − low) / n, which is the binomial variance of
    a share. It is not divided by the number of seeds, because seeds share their segments. Two successes and two
    failures are added to the count (Agresti and Coull 1998), so that it is not 0 for a mean at the end of its range.
    """
    student = student_interval(values)
    if student.low is None:
        return student
    variance = largest_variance(student.mean, num_stimuli=num_stimuli, within=within)
    return _cut(student.mean, math.hypot(student.mean - student.low, _z() * math.sqrt(variance)), within, student.n)


def counted_difference(first: Sequence[float], second: Sequence[float], *, num_stimuli: int, within: Range) -> Interval:
    """The interval of the difference of two settings within each seed, as `counted_interval`; `within`: of the figures.

    The variances of both means are added: that they share segments is not used, so the interval is rather too wide.
    """
    student = student_interval([x - y for x, y in zip(first, second, strict=True)])
    if student.low is None:
        return student
    variance = sum(
        largest_variance(float(np.mean(values)), num_stimuli=num_stimuli, within=within) for values in (first, second)
    )
    half = math.hypot(student.mean - student.low, _z() * math.sqrt(variance))
    return _cut(student.mean, half, difference_range(within), student.n)


def largest_variance(mean: float, *, num_stimuli: int, within: Range) -> float:
    """The largest variance that a mean of `num_stimuli` values in the range `within` can have."""
    low, high = within
    share = (num_stimuli * (mean - low) / (high - low) + 2) / (num_stimuli + 4)
    return (high - low) ** 2 * share * (1 - share) / (num_stimuli + 4)


def _unseen(num_stimuli: int, within: Range) -> float:
    """How far equal values of G stimuli may be from the mean: values at the far end of the range, in a share p of all
    stimuli, stay unseen with the probability (1 − p)^G, which is 0.025 for p = 1 − 0.025^(1/G).
    """
    share: float = 1 - ((1 - CONFIDENCE) / 2) ** (1 / num_stimuli)
    return (within[1] - within[0]) * share


def _cut(mean: float, half: float, within: Range, n: int) -> Interval:
    return Interval(mean=mean, low=max(within[0], mean - half), high=min(within[1], mean + half), n=n)


@cache  # SciPy's takes most of the time of an interval
def _t(freedom: int) -> float:
    from scipy.stats import t

    return float(t.ppf(0.5 + CONFIDENCE / 2, freedom))


def _z() -> float:
    from scipy.stats import norm

    return float(norm.ppf(0.5 + CONFIDENCE / 2))
