"""Writes the result of a search: best.yaml, results.json, trials.csv, table.txt and report.html."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from neuroimagen.data_shards.common.files import write_text
from neuroimagen.trainer.recipe.recipe import Recipe, dump_recipe, load_recipe
from neuroimagen.tune.config import Search
from neuroimagen.tune.records import SearchFolder
from neuroimagen.tune.report.page import render
from neuroimagen.tune.report.result import Result, cost, environment, read_result, sentence
from neuroimagen.tune.report.tables import text_table, write_csv
from neuroimagen.tune.space import CONDITION, Values, label, overrides


def write_result(folder: SearchFolder, search: Search, recipe: Recipe, *, num_stimuli: int) -> Result:
    """Write best.yaml, found.yaml, results.json, trials.csv, table.txt and the page.

    num_stimuli: as for `read_result`.
    """
    result = read_result(folder, search, recipe, num_stimuli=num_stimuli)
    found = load_recipe(folder.recipe, [*overrides(result.best_values), *_headline(result.best_values)])
    default = load_recipe(folder.recipe)
    best_text = best_recipe_text(result, found if result.decision.holds == "best" else default)
    texts = {
        folder.best: best_text,
        folder.found: found_recipe_text(result, found),
        folder.results: json.dumps(results_tree(result), indent=1, ensure_ascii=False) + "\n",
        folder.table: text_table(result),
        folder.page: render(result, folder, recipe=best_text),
    }
    for path, text in texts.items():
        write_text(path, text)
    write_csv(folder, result)
    return result


def _headline(values: Values) -> list[str]:
    """Overrides by which `neuroimagen reconstruct` makes the condition that was found the headline."""
    return [f"reconstruct.choose.conditions=[{values[CONDITION]}]"] if CONDITION in values else []


def best_recipe_text(result: Result, recipe: Recipe) -> str:
    """The text of best.yaml: a complete recipe, with comments about what it holds and why."""
    return _commented([result.decision.sentence, *_origin(result)], recipe)


def found_recipe_text(result: Result, recipe: Recipe) -> str:
    """The text of found.yaml: the setting that the search found, whether or not it stood its confirmation."""
    return _commented([*_origin(result), result.decision.sentence], recipe)


def _origin(result: Result) -> list[str]:
    return [
        f"Found by `neuroimagen tune {result.search.kind}`: {label(result.best_values)}.",
        f"{result.objective} {result.best.figures[result.objective]:.4f} on the validation split ({result.best.name}).",
        *(f"With {len(item.seeds)} new seeds: {sentence(item)}" for item in result.comparisons),
    ]


def _commented(lines: Sequence[str], recipe: Recipe) -> str:
    return "".join(f"# {line}\n" for line in lines) + dump_recipe(recipe)


def results_tree(result: Result) -> dict[str, Any]:
    """The content of results.json."""
    return {
        "kind": result.search.kind,
        "objective": {"name": list(result.search.objectives), "definition": result.objective_text},
        "best": {"trial": result.best.name, "values": result.best_values, "figures": result.best.figures},
        "comparisons": [
            {**dataclasses.asdict(item), "verdict": item.verdict, "method": item.method} for item in result.comparisons
        ],
        "best_yaml": dataclasses.asdict(result.decision),
        "importance": result.importance,
        "pareto_front": [record.name for record in result.front],
        "cost": cost(result),
        "trials": [dataclasses.asdict(record) for record in [*result.records, *result.confirmations]],
        "environment": environment(),
    }
