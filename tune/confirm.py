"""Confirmation: the best setting and the default are run again with new seeds and compared in pairs of equal seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neuroimagen.trainer.evaluation.metrics.registry import searchable_metrics
from neuroimagen.tune.config import GuidanceSearch, Search
from neuroimagen.tune.records import TrialRecord
from neuroimagen.tune.space import Value
from neuroimagen.tune.trials.objective import combined, pareto_front

FIRST_NEW_SEED = 1000
"""The n-th new seed is the recipe's seed plus this plus n; no trial of the search has one of them."""
CONFIDENCE = 0.95
Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over seeds with Student's 95 % interval, cut to the figure's range (None for a single seed)."""

    mean: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One objective of the best setting and of the default, over the same new seeds."""

    objective: str
    seeds: tuple[int, ...]
    best_values: tuple[float, ...]
    default_values: tuple[float, ...]
    best: Interval
    default: Interval
    difference: Interval
    """Best minus default, within each seed."""

    @property
    def verdict(self) -> str:
        low, high = self.difference.low, self.difference.high
        if low is None or high is None:
            return "one new seed has no interval, so nothing is claimed"
        if low > 0:
            return "better than the default"
        if high < 0:
            return "worse than the default"
        return "not shown to be better than the default: the interval of the difference contains 0"


def range_of(search: Search, objective: str) -> Range:
    """The lowest and the highest value that an objective can have; for a weighted mean, that of its metrics' values."""
    if not isinstance(search, GuidanceSearch):
        return 0.0, 1.0  # every figure that validates the contrastive stage is a share
    ranges = {name: metric.range for name, metric in searchable_metrics().items()}
    if search.pareto is not None:
        return ranges[objective]
    low, high = (combined({name: ranges[name][end] for name in search.objective}, search.objective) for end in (0, 1))
    return low, high


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
    from scipy.stats import t

    half = float(t.ppf(0.5 + CONFIDENCE / 2, n - 1)) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Interval(mean=mean, low=max(within[0], mean - half), high=min(within[1], mean + half), n=n)


def best_trial(records: Sequence[TrialRecord], search: Search) -> TrialRecord | None:
    """The best of the trials that ran to their end, the earliest of equal ones; None if no trial did.

    On a Pareto front it is the one with the highest mean of both figures, each scaled to the range of all trials.
    """
    finished = [r for r in records if r.state == "finished" and all(name in r.figures for name in search.objectives)]
    if not finished:
        return None
    points = np.array([[record.figures[name] for name in search.objectives] for record in finished])
    if len(search.objectives) == 1:
        return finished[int(points[:, 0].argmax())]
    span = np.ptp(points, axis=0)
    scaled = ((points - points.min(axis=0)) / np.where(span > 0, span, 1)).mean(axis=1)
    front = sorted(pareto_front([(float(x), float(y)) for x, y in points]))
    return finished[front[int(scaled[front].argmax())]]


def confirmation_trials(
    best: dict[str, Value], default: dict[str, Value], *, base_seed: int, num_seeds: int
) -> list[TrialRecord]:
    """The trials to run: best and default with every new seed. Their names contain the seed."""
    seeds = [base_seed + FIRST_NEW_SEED + number for number in range(num_seeds)]
    return [
        TrialRecord(name=f"confirm/{who}-{seed}", values=values, seed=seed)
        for seed in seeds
        for who, values in (("best", best), ("default", default))
    ]


def compare(
    records: Sequence[TrialRecord], objective: str, *, within: Range = (-math.inf, math.inf)
) -> Comparison | None:
    """The comparison over the seeds with which both settings have finished; None if there is none.

    within: the range of the objective.
    """
    figures: dict[str, dict[int, float]] = {"best": {}, "default": {}}
    for record in records:
        who = record.name.removeprefix("confirm/").partition("-")[0]
        if record.state == "finished" and objective in record.figures:
            figures[who][record.seed] = record.figures[objective]
    seeds = sorted(figures["best"].keys() & figures["default"].keys())
    if not seeds:
        return None
    best, default = ([figures[who][seed] for seed in seeds] for who in ("best", "default"))
    return Comparison(
        objective=objective,
        seeds=tuple(seeds),
        best_values=tuple(best),
        default_values=tuple(default),
        best=student_interval(best, within=within),
        default=student_interval(default, within=within),
        difference=student_interval(
            [x - y for x, y in zip(best, default, strict=True)], within=difference_range(within)
        ),
    )
