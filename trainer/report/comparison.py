"""Comparison of several evaluated runs: one self-contained page, Markdown, LaTeX and JSON.

The others are compared with the first run. Differences are paired over stimuli if the runs were tested on the same
data.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neuroimagen.data_shards.common.arrays import Floats, Integers
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.files import write_text
from neuroimagen.data_shards.common.progress import track
from neuroimagen.data_shards.common.reading import content_of
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.evaluation.conditions import condition_of
from neuroimagen.trainer.evaluation.intervals import Estimate, bootstrap_difference
from neuroimagen.trainer.evaluation.metrics.registry import metric_of
from neuroimagen.trainer.evaluation.results import Result, find, ordered_conditions
from neuroimagen.trainer.recipe.recipe import Recipe, difference, load_recipe
from neuroimagen.trainer.report.evaluated import (
    Evaluated,
    Item,
    choose_examples,
    evaluated_data,
    example_metrics,
    rank_rule,
)
from neuroimagen.trainer.report.page import THUMB_PX, data_uri
from neuroimagen.trainer.report.tables import escaped, figure_texts, markdown
from neuroimagen.trainer.report.templates import render_page

COMPARED_CONDITIONS = (
    *("full", "neuroimagen", "image_and_text", "image_only", "full_vae_latent", "semantic_only", "saliency_only"),
    *("alignment", "eeg_classifier", "linear_decoder"),
    *("leave_one_subject_out", "eeg_classifier_unseen_subject"),
)
MAX_SETTINGS = 40


def write_comparison(runs: Sequence[Path], out: Path, *, data: Path | None = None) -> Path:
    """Write compare.html, compare.md, compare.tex and compare.json into the folder `out`; returns the page's path."""
    if len(runs) < 2:
        raise UserError("a comparison needs at least two runs.")
    named = ", ".join(map(str, runs))
    with content_of(f"compare {named}", remedy="Run `neuroimagen evaluate` again in the run that it is about."):
        evaluated = [_open(run, data) for run in track(runs, total=len(runs), desc="opening", unit="run")]
        view = comparison(evaluated, _names(runs))
        texts = {
            "compare.html": _html(view, evaluated),
            "compare.md": _markdown(view),
            "compare.tex": _latex(view),
            "compare.json": json.dumps(view, indent=1, ensure_ascii=False) + "\n",
        }
    for name, text in texts.items():
        write_text(out / name, text)
    return out / "compare.html"


def _open(run: Path, data: Path | None) -> Evaluated:
    return Evaluated(run, Dataset.open(evaluated_data(run, given=data)))


def _names(runs: Sequence[Path]) -> list[str]:
    """The folders' names; with their parents where names repeat."""
    names = [run.resolve().name for run in runs]
    if len(set(names)) == len(names):
        return names
    return [f"{run.resolve().parent.name}/{run.resolve().name}" for run in runs]


def comparison(runs: Sequence[Evaluated], names: Sequence[str]) -> dict[str, Any]:
    """Everything that is shown but the images, as JSON values."""
    metrics = list(dict.fromkeys(metric for run in runs for metric in run.details["table_metrics"]))
    ordered = ordered_conditions([item for run in runs for item in run.results])
    figures = []
    for condition in (name for name in ordered if name in COMPARED_CONDITIONS):
        for metric in metrics:
            found = [find(run.results, condition, metric) for run in runs]
            if any(found):
                figures.append(
                    {
                        "condition": condition,
                        "title": condition_of(condition).title,
                        "metric": metric,
                        "metric_title": _heading(metric, "%"),
                        "cells": [_cell(item) for item in found],
                    }
                )
    digests = [run.details["provenance"]["data"]["digest"] for run in runs]
    same_data = len(set(digests)) == 1
    return {
        "runs": [
            {
                "name": name,
                "data": digest,
                "verdict": run.details["verdict"],
                "accuracy": _cell(find(run.results, run.main_condition, "accuracy")),
            }
            for name, run, digest in zip(names, runs, digests, strict=True)
        ],
        "same_data": same_data,
        "figures": figures,
        "differences": _differences(runs, names, metrics) if same_data else [],
        "settings": _settings(runs),
    }


def _heading(metric: str, unit: str) -> str:
    """Title of a metric, with the unit of shares."""
    found = metric_of(metric)
    return f"{found.title}, {unit}" if found.is_share else found.title


def _cell(found: Result | None) -> dict[str, Any] | None:
    if found is None:
        return None
    value, interval = figure_texts(found)
    return {
        "text": value,
        "interval": interval,
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "definition": found.definition,
    }


def _differences(runs: Sequence[Evaluated], names: Sequence[str], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """Each run's main condition minus the first run's, with the stimuli resampled together.

    Metrics that one of the two runs lacks, or that single images do not have, are left out.
    """
    keys = sorted({item.stimulus for run in runs for item in run.items})
    found = []
    for name, run in zip(names[1:], runs[1:], strict=True):
        shared = set(run.items[0].figures) & set(runs[0].items[0].figures)
        for metric in (metric for metric in metrics if metric in shared):
            estimate = bootstrap_difference(*_values(run.items, metric, keys), *_values(runs[0].items, metric, keys))
            if not estimate.n:
                continue
            found.append(
                {
                    "run": name,
                    "metric": metric,
                    "metric_title": _heading(metric, "points"),
                    "text": _signed(estimate, 100 if metric_of(metric).is_share else 1),
                    "value": estimate.value,
                    "low": estimate.low,
                    "high": estimate.high,
                    "clear": is_clear(estimate),
                }
            )
    return found


def is_clear(estimate: Estimate) -> bool:
    """Whether the whole interval lies on one side of 0."""
    return estimate.low is not None and estimate.high is not None and (estimate.low > 0 or estimate.high < 0)


def _values(items: Sequence[Item], metric: str, keys: Sequence[str]) -> tuple[Floats, Integers]:
    values = np.array([item.figures[metric] for item in items])
    return values, np.searchsorted(keys, [item.stimulus for item in items])


def _signed(estimate: Estimate, scale: int) -> str:
    digits = 1 if scale == 100 else 3
    text = f"{scale * estimate.value:+.{digits}f}"
    if estimate.low is not None and estimate.high is not None:
        text += f" [{scale * estimate.low:+.{digits}f}, {scale * estimate.high:+.{digits}f}]"
    return text.replace("-", "−")


def _settings(runs: Sequence[Evaluated]) -> list[dict[str, Any]]:
    """The keys of the recipe in which a run differs from the first, with the values of all runs."""
    recipes = [load_recipe(run.run / "config.yaml") for run in runs]
    keys = dict.fromkeys(change.split(" ")[0] for recipe in recipes[1:] for change in difference(recipes[0], recipe))
    return [{"key": key, "values": [_setting(recipe, key) for recipe in recipes]} for key in list(keys)[:MAX_SETTINGS]]


def _setting(recipe: Recipe, key: str) -> str:
    """A recipe's value of a dotted key; a dash if its section has no such key (encoders of two kinds)."""
    value: Any = recipe
    for name in key.split("."):
        if not hasattr(value, name):
            return "–"
        value = getattr(value, name)
    return str(value)


def _images(runs: Sequence[Evaluated]) -> list[dict[str, Any]]:
    """For every class the median segment of the first run by the report's rank, as every run draws it."""
    by_segment = [{item.segment: item for item in run.items} for run in runs]
    found = []
    for label, (_, median, _) in choose_examples(runs[0].items, example_metrics(runs[0].items)).items():
        if not all(median.segment in items for items in by_segment):
            continue
        shown = [run.images(items[median.segment]) for run, items in zip(runs, by_segment, strict=True)]
        found.append(
            {
                "name": runs[0].class_names[label],
                "label": label,
                "subject": median.subject,
                "images": [data_uri(image, 2 * THUMB_PX) for image in (shown[0][0], *(images[-1] for images in shown))],
            }
        )
    return found


# -------------------------------------------------------------------------------------------------------------- outputs


def _html(view: Mapping[str, Any], runs: Sequence[Evaluated]) -> str:
    return render_page(
        Path(__file__).with_name("comparison.html.j2"),
        **view,
        images=_images(runs) if view["same_data"] else [],
        rank_rule=rank_rule(example_metrics(runs[0].items)),
        script=Path(__file__).with_name("comparison.js"),
    )


def _markdown(view: Mapping[str, Any]) -> str:
    names = [markdown(run["name"]) for run in view["runs"]]
    lines = ["# Comparison", ""]
    if not view["same_data"]:
        lines += ["**The runs were tested on different data: their figures cannot be compared.**", ""]
    for name, run in zip(names, view["runs"], strict=True):
        lines += [f"**{name}**: {markdown('; '.join(sentence['heading'] for sentence in run['verdict']))}.", ""]
    lines += [f"| condition | metric | {' | '.join(names)} |", f"|---|---|{'---:|' * len(names)}"]
    for figure in view["figures"]:
        cells = [_plain(cell) for cell in figure["cells"]]
        lines.append(f"| {markdown(figure['title'])} | {figure['metric_title']} | {' | '.join(cells)} |")
    if view["differences"]:
        lines += ["", f"Differences from {names[0]}, paired over stimuli, 95 % intervals:", ""]
        lines += [f"- {markdown(item['run'])}, {item['metric_title']}: {item['text']}" for item in view["differences"]]
    return "\n".join(lines) + "\n"


def _plain(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return ""
    return f"{cell['text']} [{cell['interval']}]" if cell["interval"] else cell["text"]


def _latex(view: Mapping[str, Any]) -> str:
    names = [escaped(run["name"]) for run in view["runs"]]
    lines = [
        r"% \usepackage{booktabs}",
        rf"\begin{{tabular}}{{ll{'r' * len(names)}}}",
        r"\toprule",
        rf" & & {' & '.join(names)} \\",
        r"\midrule",
    ]
    for figure in view["figures"]:
        cells = [escaped(_plain(cell)).replace("−", "$-$").replace(" – ", ", ") for cell in figure["cells"]]
        lines.append(rf"{escaped(figure['title'])} & {escaped(figure['metric_title'])} & {' & '.join(cells)} \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"
