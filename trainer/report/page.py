"""The report of an evaluated run: one self-contained HTML page, grid.png, report.md and a LaTeX table.

It reads what `evaluate` left in report/, the run's logs and images, and the data set's stimuli; no figure is computed
again.
"""

import base64
import io
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from neuroimagen.data_shards.common.files import atomic_path, write_text
from neuroimagen.data_shards.common.limits import MAX_YAML_BYTES
from neuroimagen.data_shards.common.progress import track
from neuroimagen.data_shards.common.reading import content_of, read_text
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.evaluation.conditions import condition_of
from neuroimagen.trainer.evaluation.metrics.metric import Metric
from neuroimagen.trainer.evaluation.metrics.registry import metric_of
from neuroimagen.trainer.evaluation.results import find, format_value, guessing
from neuroimagen.trainer.report import plots
from neuroimagen.trainer.report.eeg_figures import eeg_figures, eeg_unit
from neuroimagen.trainer.report.evaluated import (
    Evaluated,
    Item,
    choose_examples,
    example_metrics,
    rank_rule,
    segment_of,
)
from neuroimagen.trainer.report.image_grid import GridRow, image_grid
from neuroimagen.trainer.report.retrieval_view import retrieval_view
from neuroimagen.trainer.report.tables import (
    absent_conditions,
    condition_texts,
    latex_table,
    markdown_report,
    preset_view,
    table_view,
)
from neuroimagen.trainer.report.templates import render_page
from neuroimagen.trainer.runs.metrics_lines import read_metrics
from neuroimagen.trainer.runs.run_folder import read_environments

EXAMPLES = ("best", "median", "worst")
MAX_EXPLORED = 600
THUMB_PX = 96


def write_report(run: Path, dataset: Dataset) -> Path:
    """Write report.html, report.md, table.tex and, if the run has images, grid.png into the run's report/.

    Returns the page's path.
    """
    with content_of(f"use the results in {run / 'report'}", remedy="Run `neuroimagen evaluate` again."):
        return _write_report(Evaluated(run, dataset))


def _write_report(evaluated: Evaluated) -> Path:
    metrics = example_metrics(evaluated.items)
    examples = choose_examples(evaluated.shown_items, metrics)
    images = {
        label: [evaluated.images(item) for item in chosen]
        for label, chosen in track(examples.items(), total=len(examples), desc="examples", unit="class")
    }
    folder = evaluated.run / "report"
    if images:
        grid = image_grid(
            [GridRow(title=evaluated.class_names[label], groups=groups) for label, groups in images.items()],
            groups=EXAMPLES,
            columns=evaluated.columns,
        )
        with atomic_path(folder / "grid.png") as temporary:
            grid.save(temporary, format="PNG", optimize=True)
    texts = {
        "report.html": _html(evaluated, metrics, examples, images),
        "report.md": markdown_report(evaluated.results, evaluated.details, rank_rule=rank_rule(metrics)),
        "table.tex": latex_table(evaluated.results, evaluated.details["table_metrics"], notes=evaluated.notes),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return folder / "report.html"


# ------------------------------------------------------------------------------------------------------------- the page


def _html(
    evaluated: Evaluated,
    metrics: Mapping[str, Metric],
    examples: Mapping[int, list[Item]],
    images: Mapping[int, list[list[np.ndarray]]],
) -> str:
    metadata = evaluated.dataset.metadata
    study = metadata.provenance.get("study", {})
    start_ms = 1000 * metadata.preprocessing.get("window", [0])[0] / metadata.sfreq
    grid = [
        {
            "label": label,
            "name": evaluated.class_names[label],
            "examples": [
                {
                    "tag": tag,
                    "subject": item.subject,
                    "right": None if item.predicted is None else item.predicted == item.label,
                    "caption": _caption(evaluated, item, metrics),
                    "images": [data_uri(image, THUMB_PX * 2) for image in shown],
                }
                for tag, item, shown in zip(EXAMPLES, examples[label], images[label], strict=True)
            ],
        }
        for label in examples
    ]
    return render_page(
        Path(__file__).with_name("page.html.j2"),
        run=evaluated.run.name,
        details=evaluated.details,
        hero=_hero(evaluated),
        columns=evaluated.columns,
        examples=EXAMPLES,
        rank_rule=rank_rule(metrics),
        grid=grid,
        explorer=_explorer(evaluated, metrics),
        table=table_view(
            evaluated.results,
            evaluated.details["table_metrics"],
            notes=evaluated.notes,
            texts=condition_texts(evaluated.details),
        ),
        preset=preset_view(evaluated.results, evaluated.details),
        confusion=_confusion(evaluated),
        per_subject=_per_subject(evaluated.details),
        absent=absent_conditions(evaluated.details),
        shares=[metric for metric in evaluated.details["table_metrics"] if metric_of(metric).is_share],
        embedding=_embedding(evaluated),
        eeg=eeg_figures(
            evaluated.eeg["evoked"].astype(np.float64),
            channel_names=metadata.channel_names,
            montage=study.get("montage"),
            sfreq=metadata.sfreq,
            start_ms=start_ms,
            num_segments=int(evaluated.eeg["num_segments"]),
            unit=eeg_unit(metadata.preprocessing),
        ),
        retrieval=retrieval_view(
            evaluated.run, evaluated.dataset, evaluated.results, evaluated.details, encode=data_uri
        ),
        stages=_stages(evaluated.run),
        recipe=read_text(evaluated.run / "config.yaml", limit=MAX_YAML_BYTES),
        commands=_commands(evaluated.run),
        script=Path(__file__).with_name("report.js"),
    )


def data_uri(pixels: np.ndarray, size_px: int) -> str:
    """An image, uint8 [H, W, 3], as a data: URI in WebP, at most `size_px` on a side."""
    image = Image.fromarray(pixels)
    image.thumbnail((size_px, size_px), Image.Resampling.LANCZOS)
    return _encoded(image)


def _encoded(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=88, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _caption(evaluated: Evaluated, item: Item, metrics: Mapping[str, Metric]) -> str:
    recognised = "" if item.predicted is None else f"recognised as {evaluated.class_names[item.predicted]}; "
    return f"{item.stimulus}, subject {item.subject}: {recognised}{_figures(item, metrics)}"


def _figures(item: Item, metrics: Mapping[str, Metric]) -> str:
    """The item's figures in words: "SSIM 0.512, 2-way CLIP 80.0 %"."""
    return ", ".join(
        f"{metric.title} {format_value(name, item.figures[name])}" + (" %" if metric.is_share else "")
        for name, metric in metrics.items()
    )


def _hero(evaluated: Evaluated) -> dict[str, Any] | None:
    """The headline's accuracy, guessing and ceiling, as shares, for the head of the page."""
    results, name = evaluated.results, evaluated.main_condition
    model = find(results, name, "accuracy")
    if model is None:
        return None
    chosen = evaluated.details.get("headline", {}).get("chosen")
    ceiling = find(results, "ceiling", "accuracy")
    return {
        "model": model,
        "condition": f"{condition_of(name).title}, chosen on the validation split" if chosen else None,
        "chance": guessing(results),
        "ceiling": ceiling.value if ceiling else None,
    }


def _explorer(evaluated: Evaluated, metrics: Mapping[str, Metric]) -> dict[str, Any]:
    """Every test segment (or evenly spaced ones) as cards: a sprite sheet per column, a line of figures per card."""
    items = sorted(evaluated.items, key=segment_of)
    if not items:
        return {"sheets": [], "side": 1, "rows": 0, "step": 1, "total": 0, "metrics": [], "items": []}
    step = -(-len(items) // MAX_EXPLORED)
    shown = items[::step]
    side = 16
    sheets = [Image.new("RGB", (side * THUMB_PX, -(-len(shown) // side) * THUMB_PX)) for _ in evaluated.columns]
    for number, item in enumerate(track(shown, total=len(shown), desc="images", unit="segment")):
        place = (number % side * THUMB_PX, number // side * THUMB_PX)
        for sheet, pixels in zip(sheets, evaluated.images(item), strict=True):
            sheet.paste(Image.fromarray(pixels).resize((THUMB_PX, THUMB_PX), Image.Resampling.LANCZOS), place)
    return {
        "sheets": [_encoded(sheet) for sheet in sheets],
        "side": side,
        "rows": -(-len(shown) // side),
        "step": step,
        "total": len(items),
        "metrics": [metric.title for metric in metrics.values()],
        "items": [
            {
                "label": item.label,
                "subject": item.subject,
                "predicted": item.predicted,
                "stimulus": item.stimulus,
                "figures": [round(item.figures[name], 3) for name in metrics],
                "caption": _figures(item, metrics),
            }
            for item in shown
        ],
    }


def _confusion(evaluated: Evaluated) -> dict[str, Any]:
    num_classes = len(evaluated.class_names)
    found = evaluated.details["confusion"].get(evaluated.main_condition)
    counts = np.zeros((num_classes, num_classes), dtype=int) if found is None else np.array(found)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return {
        "counts": counts.tolist(),
        "shares": shares.round(3).tolist(),
        "names": evaluated.class_names,
        "is_known": found is not None,
    }


def _per_subject(details: Mapping[str, Any]) -> dict[str, Any]:
    entries = details["per_subject"]
    return {
        "subjects": sorted({entry["subject"] for entry in entries}),
        "metrics": list(dict.fromkeys(entry["metric"] for entry in entries)),
        "cells": {(entry["subject"], entry["metric"]): entry for entry in entries},
    }


def _embedding(evaluated: Evaluated) -> dict[str, Any] | None:
    """Test embeddings in two dimensions by t-SNE, initialised with principal components; coordinates in 0..100."""
    if "embedding" not in evaluated.eeg or len(evaluated.eeg["embedding"]) < 10:
        return None
    from sklearn.manifold import TSNE

    embedding = evaluated.eeg["embedding"].astype(np.float64)
    perplexity = min(30.0, (len(embedding) - 1) / 3)
    points = TSNE(2, perplexity=perplexity, init="pca", random_state=0, max_iter=500).fit_transform(embedding)
    low, high = points.min(axis=0), points.max(axis=0)
    points = 4 + 92 * (points - low) / np.maximum(high - low, 1e-9)
    labels, subjects = evaluated.eeg["label"], evaluated.eeg["subject"]
    return {
        "points": [
            (round(float(x), 2), round(float(y), 2), int(label), int(subject))
            for (x, y), label, subject in zip(points, labels, subjects, strict=True)
        ],
        "names": [
            (label, *(round(float(value), 2) for value in np.median(points[labels == label], axis=0)))
            for label in np.unique(labels).tolist()
        ],
        "perplexity": round(perplexity),
    }


def _stages(run: Path) -> list[dict[str, str]]:
    """Every trained stage with its training curves."""
    stages: list[dict[str, str]] = []
    paths = sorted(run.glob("*/metrics.jsonl"))
    for path in track(paths, total=len(paths), desc="training curves", unit="stage"):
        svg = plots.curves_svg(read_metrics(path), name=f"curves-{len(stages)}")
        if svg is not None:
            stages.append({"name": path.parent.name, "svg": svg})
    return stages


def _commands(run: Path) -> list[str]:
    """The commands that trained the stages, in order, from their environment.json, and the commands after them."""
    files = sorted(run.glob("*/environment.json"))
    starts = [start for path in files for start in read_environments(path) if start.get("command")]
    starts.sort(key=lambda start: str(start.get("started", "")))  # stable: the starts of a stage stay in order
    # The first word is the path of neuroimagen on that machine, or that of its module if a demo called it.
    commands = [shlex.join(["neuroimagen", *start["command"][1:]]) for start in starts]
    has_images = (run / "reconstructions").is_dir()
    after = ("reconstruct", "evaluate", "report") if has_images else ("evaluate", "report")
    return [*commands, *(f"neuroimagen {name} --run {shlex.quote(str(run))}" for name in after)]
