"""Several evaluated runs beside each other: one self-contained page, Markdown, LaTeX and JSON.

The first run is the one that the others are held against. Differences are paired over stimuli where the runs were
tested on the same data.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neuroimagen.data_shards.common.arrays import Floats, Integers
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.files import atomic_path
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.evaluation.intervals import Estimate, bootstrap_difference
from neuroimagen.trainer.evaluation.results import Result, find, metric_title, ordered_rows, row_of
from neuroimagen.trainer.recipe.recipe import difference, load_recipe
from neuroimagen.trainer.report.page import RANK_RULE, THUMB_PX, Evaluated, Item, choose_examples, data_uri
from neuroimagen.trainer.report.tables import escaped, figure_texts, is_share
from neuroimagen.trainer.report.templates import render_page

COMPARED_ROWS = (
    *("full", "semantic_only", "saliency_only", "eeg_classifier", "linear_decoder"),
    *("leave_one_subject_out", "eeg_classifier_unseen_subject"),
)
MAX_SETTINGS = 40


def write_comparison(runs: Sequence[Path], out: Path, *, data: Path | None = None) -> Path:
    """Write compare.html, compare.md, compare.tex and compare.json into the folder `out`; returns the page's path."""
    if len(runs) < 2:
        raise UserError("a comparison takes two runs or more.")
    evaluated = [_open(run, data) for run in runs]
    names = _names(runs)
    view = comparison(evaluated, names)
    texts = {
        "compare.html": _html(view, _pictures(evaluated) if view["same_data"] else []),
        "compare.md": _markdown(view),
        "compare.tex": _latex(view),
        "compare.json": json.dumps(view, indent=1, ensure_ascii=False) + "\n",
    }
    for name, text in texts.items():
        with atomic_path(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return out / "compare.html"


def _open(run: Path, data: Path | None) -> Evaluated:
    details = run / "report" / "details.json"
    if not details.is_file():
        raise UserError(f"{run} has not been evaluated. Run `neuroimagen evaluate --run {run}` first.")
    folder = data or Path(json.loads(details.read_text(encoding="utf-8"))["data"])
    return Evaluated(run, Dataset.open(folder))


def _names(runs: Sequence[Path]) -> list[str]:
    """The folders' names; with their parents where names repeat."""
    names = [run.resolve().name for run in runs]
    if len(set(names)) == len(names):
        return names
    return [f"{run.resolve().parent.name}/{run.resolve().name}" for run in runs]


def comparison(runs: Sequence[Evaluated], names: Sequence[str]) -> dict[str, Any]:
    """Everything that is shown, as JSON values."""
    metrics = list(runs[0].details["table_metrics"])
    present = [row for row in ordered_rows([item for run in runs for item in run.results]) if row in COMPARED_ROWS]
    rows = []
    for row in present:
        for metric in metrics:
            found = [find(run.results, row, metric) for run in runs]
            if any(found):
                rows.append(
                    {
                        "row": row,
                        "title": row_of(row).title,
                        "metric": metric,
                        "metric_title": metric_title(metric) + (" %" if is_share(metric) else ""),
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
                "accuracy": _cell(find(run.results, run.main_row, "accuracy")),
            }
            for name, run, digest in zip(names, runs, digests, strict=True)
        ],
        "same_data": same_data,
        "rows": rows,
        "differences": _differences(runs, names, metrics) if same_data else [],
        "settings": _settings(runs),
    }


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
    """Each run's main row less the first run's, stimuli resampled together."""
    keys = sorted({item.stimulus for run in runs for item in run.items})
    found = []
    for name, run in zip(names[1:], runs[1:], strict=True):
        for metric in metrics:
            estimate = bootstrap_difference(*_values(run.items, metric, keys), *_values(runs[0].items, metric, keys))
            if not estimate.n:
                continue
            found.append(
                {
                    "run": name,
                    "metric": metric,
                    "metric_title": metric_title(metric) + (", points" if is_share(metric) else ""),
                    "text": _signed(estimate, 100 if is_share(metric) else 1),
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
    """The keys of the recipe in which any run differs from the first, with every run's value."""
    recipes = [load_recipe(run.run / "config.yaml") for run in runs]
    keys = dict.fromkeys(change.split(" ")[0] for recipe in recipes[1:] for change in difference(recipes[0], recipe))
    settings = []
    for key in list(keys)[:MAX_SETTINGS]:
        values = []
        for recipe in recipes:
            value: Any = recipe
            for part in key.split("."):
                value = getattr(value, part)
            values.append(str(value))
        settings.append({"key": key, "values": values})
    return settings


def _pictures(runs: Sequence[Evaluated]) -> list[dict[str, Any]]:
    """Of every class the median segment of the first run by the report's rank, as every run draws it."""
    by_segment = [{item.segment: item for item in run.items} for run in runs]
    found = []
    for label, (_, median, _) in choose_examples(runs[0].items).items():
        if not all(median.segment in items for items in by_segment):
            continue
        shown = [run.pictures(items[median.segment]) for run, items in zip(runs, by_segment, strict=True)]
        found.append(
            {
                "name": runs[0].class_names[label],
                "label": label,
                "subject": median.subject,
                "pictures": [
                    data_uri(picture, 2 * THUMB_PX) for picture in (shown[0][0], *(pictures[-1] for pictures in shown))
                ],
            }
        )
    return found


# -------------------------------------------------------------------------------------------------------------- outputs


def _html(view: Mapping[str, Any], pictures: Sequence[Mapping[str, Any]]) -> str:
    return render_page(
        Path(__file__).with_name("comparison.html.j2"),
        **view,
        pictures=pictures,
        rank_rule=RANK_RULE,
    )


def _markdown(view: Mapping[str, Any]) -> str:
    names = [run["name"] for run in view["runs"]]
    lines = ["# Comparison", ""]
    if not view["same_data"]:
        lines += ["**The runs were tested on different data: figures do not compare.**", ""]
    for run in view["runs"]:
        lines += [f"**{run['name']}**: {'; '.join(sentence['heading'] for sentence in run['verdict'])}.", ""]
    lines += [f"| row | metric | {' | '.join(names)} |", f"|---|---|{'---:|' * len(names)}"]
    for row in view["rows"]:
        cells = [_plain(cell) for cell in row["cells"]]
        lines.append(f"| {row['title']} | {row['metric_title']} | {' | '.join(cells)} |")
    if view["differences"]:
        lines += ["", f"Differences to {names[0]}, paired over stimuli, 95 % intervals:", ""]
        lines += [f"- {item['run']}, {item['metric_title']}: {item['text']}" for item in view["differences"]]
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
    for row in view["rows"]:
        cells = [escaped(_plain(cell)).replace("−", "$-$").replace(" – ", ", ") for cell in row["cells"]]
        lines.append(rf"{escaped(row['title'])} & {escaped(row['metric_title'])} & {' & '.join(cells)} \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"
