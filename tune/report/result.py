"""A search's result: the table, the recipe, the figures behind them, and the page that shows them."""

import csv
import dataclasses
import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from typing import Any

import yaml

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.files import atomic_path
from neuroimagen.trainer.recipe.recipe import Recipe, dump_recipe, load_recipe
from neuroimagen.tune.config import GuidanceSearch, MarginSearch, Search
from neuroimagen.tune.confirm import Comparison, best_trial, compare, range_of
from neuroimagen.tune.records import SearchFolder, TrialRecord, read_lines
from neuroimagen.tune.samplers.proposals import importances
from neuroimagen.tune.space import Value, label, overrides, show
from neuroimagen.tune.trials.objective import pareto_front, statement

MARGIN_OBJECTIVES = {
    "knn_accuracy": "share of validation segments whose class has most of their 15 nearest training segments",
    "retrieval_top1": "share of validation segments whose nearest training segment is of the same class",
    "accuracy": "share of validation segments nearest to the centroid of their own class's training segments",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """Everything that the table and the page say."""

    search: Search
    recipe: Recipe
    records: list[TrialRecord]
    fresh: list[TrialRecord]
    best: TrialRecord
    best_values: dict[str, Value]
    """The best trial's setting at its end."""
    comparisons: list[Comparison]
    importance: dict[str, float]
    front: list[TrialRecord]
    """The Pareto front, where two objectives were raised together."""

    @property
    def objective(self) -> str:
        return self.search.objectives[0]

    @property
    def objective_text(self) -> str:
        """The objective in words."""
        if isinstance(self.search, GuidanceSearch):
            return f"{statement(self.search)}, on {self.search.num_segments} validation segments"
        return MARGIN_OBJECTIVES[self.search.objective]


def read_result(folder: SearchFolder, search: Search, recipe: Recipe) -> Result:
    """The result as the records have it. Raises UserError when no trial ran to its end."""
    records, fresh = folder.records(), folder.records("confirm")
    best = best_trial(records, search)
    if best is None:
        raise UserError(f"{folder.path}: no trial ran to its end.")
    compared = [compare(fresh, name, within=range_of(search, name)) for name in search.objectives]
    front = []
    if len(search.objectives) == 2:
        x, y = search.objectives
        finished = [r for r in records if r.state == "finished" and {x, y} <= r.figures.keys()]
        front = [finished[place] for place in pareto_front([(r.figures[x], r.figures[y]) for r in finished])]
    return Result(
        search=search,
        recipe=recipe,
        records=records,
        fresh=fresh,
        best=best,
        best_values=final_values(folder, best),
        comparisons=[item for item in compared if item is not None],
        importance=importances(search, records, search.objectives[0]),
        front=front,
    )


def final_values(folder: SearchFolder, record: TrialRecord) -> dict[str, Value]:
    """A trial's setting at its end; population-based training changes it on the way."""
    forks = read_lines(folder.trial(record.name).forks)
    return dict(forks[-1]["values"]) if forks else dict(record.values)


def write_result(folder: SearchFolder, search: Search, recipe: Recipe) -> Result:
    """Write best.yaml, results.json, trials.csv, table.txt and the page."""
    from neuroimagen.tune.report.page import render

    result = read_result(folder, search, recipe)
    best = load_recipe(folder.recipe, overrides(result.best_values))
    texts = {
        folder.best: best_recipe_text(result, best),
        folder.results: json.dumps(results_tree(result), indent=1, ensure_ascii=False) + "\n",
        folder.table: text_table(result),
        folder.page: render(result, folder),
    }
    for path, text in texts.items():
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    _write_csv(folder, result)
    return result


def best_recipe_text(result: Result, recipe: Recipe) -> str:
    """best.yaml: a complete recipe, and in comments where it comes from."""
    lines = [
        f"Found by `neuroimagen tune {result.search.kind}`: {label(result.best_values)}.",
        f"{result.objective} {result.best.figures[result.objective]:.4f} on the validation part ({result.best.name}).",
        *(f"With {len(item.seeds)} fresh seeds: {sentence(item)}" for item in result.comparisons),
    ]
    return "".join(f"# {line}\n" for line in lines) + dump_recipe(recipe)


def sentence(item: Comparison) -> str:
    """A comparison in words."""
    return (
        f"{item.objective} {_with_interval(item.best)} against {_with_interval(item.default)} of the default; "
        f"difference {_with_interval(item.difference, signed=True)}: {item.verdict}."
    )


def _with_interval(interval: Any, *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    if interval.low is None:
        return f"{interval.mean:{sign}.4f}"
    return f"{interval.mean:{sign}.4f} [{interval.low:{sign}.4f}, {interval.high:{sign}.4f}]"


def results_tree(result: Result) -> dict[str, Any]:
    """results.json."""
    return {
        "kind": result.search.kind,
        "objective": {"name": list(result.search.objectives), "definition": result.objective_text},
        "best": {"trial": result.best.name, "values": result.best_values, "figures": result.best.figures},
        "comparisons": [{**dataclasses.asdict(item), "verdict": item.verdict} for item in result.comparisons],
        "importance": result.importance,
        "pareto_front": [record.name for record in result.front],
        "cost": cost(result),
        "trials": [dataclasses.asdict(record) for record in [*result.records, *result.fresh]],
        "environment": environment(),
    }


def cost(result: Result) -> dict[str, float]:
    """What the search took: steps (pictures, for guidance) and seconds of workers."""
    unit = "steps" if isinstance(result.search, MarginSearch) else "pictures"
    return {
        "trials": len(result.records),
        f"{unit}_of_search": sum(record.steps for record in result.records),
        f"{unit}_of_fresh_seeds": sum(record.steps for record in result.fresh),
        "worker_seconds": round(sum(record.seconds for record in [*result.records, *result.fresh]), 1),
    }


def environment() -> dict[str, Any]:
    """Machine and versions."""
    packages = ("neuroimagen", "ray", "optuna", "torch", "deepspeed", "diffusers", "numpy")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)),
        "packages": {name: importlib.metadata.version(name) for name in packages},
    }


def ranked(result: Result) -> list[TrialRecord]:
    """The trials of the search, best first: finished, stopped, failed."""
    order = {"finished": 0, "stopped": 1, "failed": 2, "running": 3}

    def place(record: TrialRecord) -> tuple[int, float, str]:
        value = record.figures.get(result.objective, float("-inf"))
        return order[record.state], -value, record.name

    return sorted(result.records, key=place)


def text_table(result: Result, num: int = 20) -> str:
    """The first trials as an aligned table, and what the fresh seeds say."""
    keys = list(result.search.space)
    objectives = list(result.search.objectives)
    lines = [["trial", *objectives, "state", "steps", *(key.rpartition(".")[2] for key in keys)]]
    for record in ranked(result)[:num]:
        figures = [f"{record.figures[name]:.4f}" if name in record.figures else "·" for name in objectives]
        values = [show(record.values[key]) for key in keys]
        lines.append([record.name.removeprefix("trials/"), *figures, record.state, str(record.steps), *values])
    text = "\n".join(_aligned(lines))
    if len(result.records) > num:
        text += f"\n… and {len(result.records) - num} more in trials.csv"
    text += "".join(f"\n\n{len(item.seeds)} fresh seeds: {sentence(item)}" for item in result.comparisons)
    if not result.comparisons:
        text += "\n\nNot run with fresh seeds (confirm_seeds: 0): whether the best is better than the default is open."
    return text + "\n"


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    return [padded[0], "─" * len(padded[0]), *padded[1:]]


def _write_csv(folder: SearchFolder, result: Result) -> None:
    keys = list(result.search.space)
    metrics = list(dict.fromkeys(name for record in result.records for name in record.figures))
    with atomic_path(folder.csv) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", "state", "seed", "steps", "seconds", "starts", "retries", *metrics, *keys, "message"])
        for record in [*result.records, *result.fresh]:
            writer.writerow(
                [
                    *(record.name, record.state, record.seed, record.steps, record.seconds),
                    *(record.num_starts, record.retries),
                    *(record.figures.get(name, "") for name in metrics),
                    *(yaml.safe_dump(record.values[key]).splitlines()[0] for key in keys),
                    record.message,
                ]
            )
