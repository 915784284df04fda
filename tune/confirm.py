"""Confirmation: the best setting and the default are run again with new seeds and compared in pairs of equal seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from neuroimagen.data_shards.common.arrays import Integers
from neuroimagen.trainer.evaluation.metrics.registry import searchable_metrics
from neuroimagen.trainer.evaluation.scoring.objective import combined
from neuroimagen.trainer.stages.validation.segment_figures import SegmentFigures
from neuroimagen.tune.config import GuidanceSearch, Search
from neuroimagen.tune.intervals import (
    Interval,
    Range,
    counted_difference,
    counted_interval,
    crossed_interval,
    difference_range,
)
from neuroimagen.tune.records import TrialRecord
from neuroimagen.tune.space import Value
from neuroimagen.tune.trials.objective import pareto_front

FIRST_NEW_SEED = 1000
"""The n-th new seed is the recipe's seed plus this plus n; no trial of the search has one of them."""
Who = Literal["best", "default"]


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
    """Best minus default, within each seed and, where `by_segment`, each segment."""
    by_segment: bool
    """Whether the runs left their figures by segment; else the intervals are the wider ones of their counts."""
    num_stimuli: int
    """Stimuli of the validation segments that both were measured on."""

    @property
    def is_better(self) -> bool:
        return self.difference.low is not None and self.difference.low > 0

    @property
    def is_worse(self) -> bool:
        return self.difference.high is not None and self.difference.high < 0

    @property
    def verdict(self) -> str:
        if self.difference.low is None:
            return f"one {'new seed' if len(self.seeds) == 1 else 'stimulus'} has no interval, so nothing is claimed"
        if self.is_better:
            return "better than the default"
        if self.is_worse:
            return "worse than the default"
        return "not shown to be better than the default: the interval of the difference contains 0"

    @property
    def method(self) -> str:
        """How the intervals were made."""
        if self.by_segment:
            return f"intervals over seeds and {self.num_stimuli} stimuli, paired by segment"
        return (
            f"intervals over seeds, with the variance of counts on {self.num_stimuli} stimuli, because the runs left "
            "no figures by segment"
        )


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Which setting best.yaml holds, and why."""

    holds: Who
    reason: str

    @property
    def sentence(self) -> str:
        setting = "setting that the search found" if self.holds == "best" else "default setting"
        return f"best.yaml holds the {setting}: {self.reason}."


def decide(comparisons: Sequence[Comparison], confirmations: Sequence[TrialRecord]) -> Decision:
    """The found setting if it stood its confirmation, or if there was none; else the default.

    It stands if it is shown to be better in an objective and worse in none. An undecided difference is no confirmation:
    the value of the best of many trials is biased upwards.
    """
    if not confirmations:
        return Decision(holds="best", reason="it was not run with new seeds, so it is not confirmed")
    if not comparisons:
        finished = {_who(record) for record in confirmations if record.state == "finished"}
        if finished == {"best"}:
            return Decision(holds="best", reason="the default did not run to its end with any new seed")
        what = "neither ran to its end" if not finished else "there is no new seed with which both ran to their end"
        if finished == {"default"}:
            what = "the found one did not run to its end with any new seed"
        return Decision(holds="default", reason=what)
    worse = [item.objective for item in comparisons if item.is_worse]
    better = [item.objective for item in comparisons if item.is_better]
    if worse:
        return Decision(holds="default", reason=f"with new seeds the found one was worse ({', '.join(worse)})")
    if better:
        return Decision(holds="best", reason=f"with new seeds it was better than the default ({', '.join(better)})")
    if comparisons[0].difference.low is None:
        return Decision(holds="default", reason="without an interval the found one is not shown to be better")
    return Decision(holds="default", reason="with new seeds the found one was not shown to be better")


def range_of(search: Search, objective: str) -> Range:
    """The lowest and the highest value that an objective can have; for a weighted mean, that of its metrics' values."""
    if not isinstance(search, GuidanceSearch):
        return 0.0, 1.0  # every objective of a stage's search is a share, or a mean of shares
    ranges = {name: metric.range for name, metric in searchable_metrics().items()}
    if search.pareto is not None:
        return ranges[objective]
    low, high = (combined({name: ranges[name][end] for name in search.objective}, search.objective) for end in (0, 1))
    return low, high


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
    records: Sequence[TrialRecord],
    objective: str,
    *,
    within: Range,
    num_stimuli: int,
    segments: Mapping[str, SegmentFigures] | None = None,
) -> Comparison | None:
    """The comparison over the seeds with which both settings have finished; None if there is none.

    within: the range of the objective. num_stimuli: stimuli of the validation segments. segments: name of a record →
    its figures by segment; the intervals are paired by segment if every run that is compared has them.
    """
    runs: dict[str, dict[int, TrialRecord]] = {"best": {}, "default": {}}
    for record in records:
        if record.state == "finished" and objective in record.figures:
            runs[_who(record)][record.seed] = record
    seeds = sorted(runs["best"].keys() & runs["default"].keys())
    if not seeds:
        return None
    values = {who: [made[seed].figures[objective] for seed in seeds] for who, made in runs.items()}
    found = {who: [(segments or {}).get(made[seed].name) for seed in seeds] for who, made in runs.items()}
    by_segment = _on_equal_segments([*found["best"], *found["default"]], objective)
    if by_segment is not None:
        stimuli, columns = by_segment
        best, default = columns[: len(seeds)], columns[len(seeds) :]
        num_stimuli = len(np.unique(stimuli))
        intervals = {
            "best": crossed_interval(best, stimuli, within=within),
            "default": crossed_interval(default, stimuli, within=within),
            "difference": crossed_interval(best - default, stimuli, within=difference_range(within)),
        }
    else:
        intervals = {who: counted_interval(values[who], num_stimuli=num_stimuli, within=within) for who in values}
        intervals["difference"] = counted_difference(
            values["best"], values["default"], num_stimuli=num_stimuli, within=within
        )
    return Comparison(
        objective=objective,
        seeds=tuple(seeds),
        best_values=tuple(values["best"]),
        default_values=tuple(values["default"]),
        by_segment=by_segment is not None,
        num_stimuli=num_stimuli,
        **intervals,
    )


def _who(record: TrialRecord) -> str:
    """best or default, whichever a run with a new seed has the setting of."""
    return record.name.removeprefix("confirm/").partition("-")[0]


def _on_equal_segments(
    found: Sequence[SegmentFigures | None], figure: str
) -> tuple[Integers, npt.NDArray[np.float64]] | None:
    """The stimuli [N] of the segments, and the figure of every run on them [runs, N]; None unless all runs have the
    figure, and of the same segments.
    """
    runs = [run.sorted() for run in found if run is not None and figure in run.values]
    if len(runs) < len(found) or any(not np.array_equal(run.rows, runs[0].rows) for run in runs):
        return None
    return runs[0].stimuli, np.stack([run.values[figure] for run in runs])
