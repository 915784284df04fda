"""The result of a search, read from its records: best trial, comparison with the default, importance of each key."""

import dataclasses
import importlib.metadata
import os
import platform
from typing import Any

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.recipe.recipe import Recipe
from neuroimagen.tune.config import GuidanceSearch, Search, StageSearch
from neuroimagen.tune.confirm import Comparison, Decision, best_trial, compare, decide, range_of
from neuroimagen.tune.records import SearchFolder, TrialRecord, read_lines
from neuroimagen.tune.samplers.importance import importances
from neuroimagen.tune.space import Value
from neuroimagen.tune.trials.objective import pareto_front, statement


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """The content of the table and the page."""

    search: Search
    recipe: Recipe
    records: list[TrialRecord]
    """The trials of the search."""
    confirmations: list[TrialRecord]
    """The runs of the best setting and of the default with new seeds."""
    best: TrialRecord
    best_values: dict[str, Value]
    """The best trial's setting at its end."""
    comparisons: list[Comparison]
    """One for each objective; none if there were no runs with new seeds."""
    decision: Decision
    """Which setting best.yaml holds."""
    importance: dict[str, float]
    """Key of the space → share of the objective's variance that it explains."""
    front: list[TrialRecord]
    """The Pareto front, if two objectives were maximised together."""

    @property
    def objective(self) -> str:
        return self.search.objectives[0]

    @property
    def objective_text(self) -> str:
        """The definition of the objective."""
        if isinstance(self.search, GuidanceSearch):
            return f"{statement(self.search)}, on {self.search.num_segments} validation segments"
        return self.search.definitions[self.search.objective]


def read_result(folder: SearchFolder, search: Search, recipe: Recipe, *, num_stimuli: int) -> Result:
    """The result of the trials that are recorded. Raises UserError if none of them ran to its end.

    num_stimuli: stimuli of the validation segments, for runs with new seeds that left no figures by segment.
    """
    records, confirmations = folder.records(), folder.records("confirm")
    best = best_trial(records, search)
    if best is None:
        raise UserError(f"{folder.path}: no trial ran to its end.")
    segments = {record.name: found for record in confirmations if (found := folder.segment_figures(record.name))}
    compared = [
        compare(confirmations, name, within=range_of(search, name), num_stimuli=num_stimuli, segments=segments)
        for name in search.objectives
    ]
    comparisons = [item for item in compared if item is not None]
    front = []
    if len(search.objectives) == 2:
        x, y = search.objectives
        finished = [r for r in records if r.state == "finished" and {x, y} <= r.figures.keys()]
        front = [finished[place] for place in pareto_front([(r.figures[x], r.figures[y]) for r in finished])]
    return Result(
        search=search,
        recipe=recipe,
        records=records,
        confirmations=confirmations,
        best=best,
        best_values=final_values(folder, best),
        comparisons=comparisons,
        decision=decide(comparisons, confirmations),
        importance=importances(search, records, search.objectives[0]),
        front=front,
    )


def final_values(folder: SearchFolder, record: TrialRecord) -> dict[str, Value]:
    """A trial's setting at its end; population-based training changes it during the trial."""
    copies = read_lines(folder.trial(record.name).copies)
    return dict(copies[-1]["values"]) if copies else dict(record.values)


def sentence(item: Comparison) -> str:
    """A comparison as a sentence."""
    return (
        f"{item.objective} {_with_interval(item.best)} against {_with_interval(item.default)} of the default; "
        f"difference {_with_interval(item.difference, signed=True)}: {item.verdict}."
    )


def _with_interval(interval: Any, *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    if interval.low is None:
        return f"{interval.mean:{sign}.4f}"
    return f"{interval.mean:{sign}.4f} [{interval.low:{sign}.4f}, {interval.high:{sign}.4f}]"


def cost(result: Result) -> dict[str, float]:
    """Number of trials, training steps (guidance: reconstructed images) and seconds of workers."""
    unit = "steps" if isinstance(result.search, StageSearch) else "images"
    return {
        "trials": len(result.records),
        f"{unit}_of_search": sum(record.steps for record in result.records),
        f"{unit}_of_confirmation": sum(record.steps for record in result.confirmations),
        "worker_seconds": round(sum(record.seconds for record in [*result.records, *result.confirmations]), 1),
    }


def environment() -> dict[str, Any]:
    """The machine, and versions of packages."""
    packages = ("neuroimagen", "ray", "optuna", "torch", "deepspeed", "diffusers", "numpy")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)),
        "packages": {name: importlib.metadata.version(name) for name in packages},
    }


def ranked(result: Result) -> list[TrialRecord]:
    """The trials of the search: finished ones, stopped ones, failed ones; the best first in each group."""
    order = {"finished": 0, "stopped": 1, "failed": 2, "running": 3}

    def place(record: TrialRecord) -> tuple[int, float, str]:
        value = record.figures.get(result.objective, float("-inf"))
        return order[record.state], -value, record.name

    return sorted(result.records, key=place)
