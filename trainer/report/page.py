"""The report of an evaluated run: one self-contained HTML page, grid.png, report.md and a LaTeX table.

Reads what `evaluate` left in report/, the run's logs and pictures, and the data set's stimuli; computes no figure anew.
"""

import base64
import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.files import atomic_path
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.evaluation.evaluate import DETAILS_FILE, EEG_FILE, ITEMS_FILE
from neuroimagen.trainer.evaluation.results import RESULTS_FILE, Result, find, guessing, read_results
from neuroimagen.trainer.reconstruction.manifest import read_image
from neuroimagen.trainer.report import plots
from neuroimagen.trainer.report.tables import absent_rows, is_share, latex_table, markdown_report, table_view
from neuroimagen.trainer.report.templates import render_page

RANK_METRICS = ("ssim", "pixcorr", "two_way_clip")
RANK_RULE = "best, median and worst by the mean of three ranks among its test segments: SSIM, PixCorr, two-way CLIP"
EXAMPLES = ("best", "median", "worst")
MAX_EXPLORED = 600
THUMB_PX = 96


@dataclass(frozen=True, kw_only=True)
class Item:
    """One reconstruction of the model with its figures, as items.csv has it."""

    segment: str
    stimulus: str
    label: int
    subject: int
    predicted: int
    file: str
    figures: Mapping[str, float]


class Evaluated:
    """An evaluated run as the report sees it."""

    def __init__(self, run: Path, dataset: Dataset) -> None:
        self.run = run
        self.dataset = dataset
        folder = run / "report"
        self.results: list[Result] = read_results(folder / RESULTS_FILE)
        self.details: dict[str, Any] = json.loads((folder / DETAILS_FILE).read_text(encoding="utf-8"))
        with np.load(folder / EEG_FILE, allow_pickle=False) as arrays:
            self.eeg = {name: arrays[name] for name in arrays.files}
        with (folder / ITEMS_FILE).open(encoding="utf-8", newline="") as file:
            self._lines = list(csv.DictReader(file))
        self.class_names: list[str] = self.details["classes"]

    @cached_property
    def main_row(self) -> str:
        """The row whose pictures are shown: the model's, or the first there is."""
        rows = dict.fromkeys(line["row"] for line in self._lines)
        return "full" if "full" in rows else next(iter(rows))

    @cached_property
    def items(self) -> list[Item]:
        """The first sample of every segment of the main row."""
        return [_item(line) for line in self._lines if line["row"] == self.main_row and line["sample"] == "0"]

    @cached_property
    def _saliency_files(self) -> dict[str, str]:
        lines = (line for line in self._lines if line["row"] == "saliency_only" and line["sample"] == "0")
        return {line["segment"]: line["file"] for line in lines}

    @cached_property
    def _stimulus_index(self) -> dict[str, int]:
        return {key: index for index, key in enumerate(self.dataset.stimuli.keys)}

    @property
    def columns(self) -> list[str]:
        """What is shown of a segment."""
        return ["stimulus", *(["saliency map"] if self._saliency_files else []), "reconstruction"]

    def pictures(self, item: Item) -> list[np.ndarray]:
        """The pictures of `columns` of one segment, uint8 [S, S, 3]."""
        reconstruction = read_image(self.run / "reconstructions" / item.file)
        stimulus = self.dataset.stimuli.images([self._stimulus_index[item.stimulus]], reconstruction.shape[1])[0]
        pictures = [stimulus]
        if item.segment in self._saliency_files:
            pictures.append(read_image(self.run / "reconstructions" / self._saliency_files[item.segment]))
        return [picture.transpose(1, 2, 0) for picture in (*pictures, reconstruction)]


def _item(line: Mapping[str, str]) -> Item:
    words = {"row", "segment", "stimulus", "label", "subject", "sample", "file", "predicted"}
    return Item(
        segment=line["segment"],
        stimulus=line["stimulus"],
        label=int(line["label"]),
        subject=int(line["subject"]),
        predicted=int(line["predicted"]),
        file=line["file"],
        figures={name: float(value) for name, value in line.items() if name not in words},
    )


def choose_examples(items: Sequence[Item]) -> dict[int, list[Item]]:
    """Label → best, median and worst segment by RANK_RULE; equal ones in the order of their keys. Pure."""
    chosen: dict[int, list[Item]] = {}
    for label in sorted({item.label for item in items}):
        members = sorted((item for item in items if item.label == label), key=_segment_of)
        figures = np.array([[item.figures[metric] for metric in RANK_METRICS] for item in members])
        ranks = (figures[:, None, :] > figures[None, :, :]).sum(axis=1) + 0.5 * (figures[:, None] == figures[None]).sum(
            axis=1
        )
        order = np.argsort(-ranks.mean(axis=1), kind="stable")
        chosen[label] = [members[order[place]] for place in (0, (len(members) - 1) // 2, len(members) - 1)]
    return chosen


def _segment_of(item: Item) -> str:
    return item.segment


def write_report(run: Path, dataset: Dataset) -> Path:
    """Write report.html, grid.png, report.md and table.tex into the run's report/; returns the page's path."""
    for name in (RESULTS_FILE, DETAILS_FILE, ITEMS_FILE, EEG_FILE):
        if not (run / "report" / name).is_file():
            raise UserError(f"{run} has no report/{name}. Run `neuroimagen evaluate --run {run}` first.")
    evaluated = Evaluated(run, dataset)
    examples = choose_examples(evaluated.items)
    pictures = {label: [evaluated.pictures(item) for item in chosen] for label, chosen in examples.items()}
    grid = plots.picture_grid(
        [plots.GridRow(title=evaluated.class_names[label], groups=groups) for label, groups in pictures.items()],
        groups=EXAMPLES,
        columns=evaluated.columns,
    )
    folder = run / "report"
    with atomic_path(folder / "grid.png") as temporary:
        grid.save(temporary, format="PNG", optimize=True)
    texts = {
        "report.html": _html(evaluated, examples, pictures),
        "report.md": markdown_report(evaluated.results, evaluated.details, rank_rule=RANK_RULE),
        "table.tex": latex_table(evaluated.results, evaluated.details["table_metrics"]),
    }
    for name, text in texts.items():
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return folder / "report.html"


# ------------------------------------------------------------------------------------------------------------- the page


def _html(
    evaluated: Evaluated, examples: Mapping[int, list[Item]], pictures: Mapping[int, list[list[np.ndarray]]]
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
                    "right": item.predicted == item.label,
                    "caption": _caption(evaluated, item),
                    "pictures": [data_uri(picture, THUMB_PX * 2) for picture in shown],
                }
                for tag, item, shown in zip(EXAMPLES, examples[label], pictures[label], strict=True)
            ],
        }
        for label in examples
    ]
    return render_page(
        Path(__file__).with_name("page.html.j2"),
        run=evaluated.run.name,
        details=evaluated.details,
        hero=_hero(evaluated.results),
        columns=evaluated.columns,
        examples=EXAMPLES,
        rank_rule=RANK_RULE,
        grid=grid,
        explorer=_explorer(evaluated),
        table=table_view(evaluated.results, evaluated.details["table_metrics"]),
        confusion=_confusion(evaluated),
        per_subject=_per_subject(evaluated.details),
        absent=absent_rows(evaluated.details),
        shares=[metric for metric in evaluated.details["table_metrics"] if is_share(metric)],
        embedding=_embedding(evaluated),
        eeg=plots.eeg_figures(
            evaluated.eeg["evoked"].astype(np.float64),
            channel_names=metadata.channel_names,
            montage=study.get("montage"),
            sfreq=metadata.sfreq,
            start_ms=start_ms,
            num_segments=int(evaluated.eeg["num_segments"]),
            unit=plots.eeg_unit(metadata.preprocessing),
        ),
        stages=_stages(evaluated.run),
        recipe=(evaluated.run / "config.yaml").read_text(encoding="utf-8"),
        commands=_commands(evaluated.run),
        script=Path(__file__).with_name("report.js").read_text(encoding="utf-8"),
    )


def data_uri(picture: np.ndarray, size_px: int) -> str:
    """A picture [H, W, 3] as a data: URI, WebP, at most `size_px` a side."""
    image = Image.fromarray(picture)
    image.thumbnail((size_px, size_px), Image.Resampling.LANCZOS)
    return _encoded(image)


def _encoded(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=88, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _caption(evaluated: Evaluated, item: Item) -> str:
    ssim, pixcorr, two_way = (item.figures[name] for name in RANK_METRICS)
    return (
        f"{item.stimulus}, subject {item.subject}: recognised as {evaluated.class_names[item.predicted]}; "
        f"SSIM {ssim:.2f}, PixCorr {pixcorr:.2f}, two-way CLIP {100 * two_way:.0f} %"
    )


def _hero(results: Sequence[Result]) -> dict[str, Any] | None:
    """Accuracy between chance and ceiling, as shares of the line from 0 to 1."""
    model = find(results, "full", "accuracy")
    if model is None:
        return None
    ceiling = find(results, "ceiling", "accuracy")
    return {
        "model": model,
        "chance": guessing(results),
        "ceiling": ceiling.value if ceiling else None,
    }


def _explorer(evaluated: Evaluated) -> dict[str, Any]:
    """Every test segment (or evenly spaced ones) as cards: one sprite sheet a column and a line of figures each."""
    items = sorted(evaluated.items, key=_segment_of)
    step = -(-len(items) // MAX_EXPLORED)
    shown = items[::step]
    side = 16
    sheets = [Image.new("RGB", (side * THUMB_PX, -(-len(shown) // side) * THUMB_PX)) for _ in evaluated.columns]
    for number, item in enumerate(shown):
        place = (number % side * THUMB_PX, number // side * THUMB_PX)
        for sheet, picture in zip(sheets, evaluated.pictures(item), strict=True):
            sheet.paste(Image.fromarray(picture).resize((THUMB_PX, THUMB_PX), Image.Resampling.LANCZOS), place)
    return {
        "sheets": [_encoded(sheet) for sheet in sheets],
        "side": side,
        "rows": -(-len(shown) // side),
        "step": step,
        "total": len(items),
        "items": [
            [
                item.label,
                item.subject,
                item.predicted,
                *(round(item.figures[name], 3) for name in RANK_METRICS),
                item.stimulus,
            ]
            for item in shown
        ],
    }


def _confusion(evaluated: Evaluated) -> dict[str, Any]:
    counts = np.array(evaluated.details["confusion"][evaluated.main_row])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return {"counts": counts.tolist(), "shares": shares.round(3).tolist(), "names": evaluated.class_names}


def _per_subject(details: Mapping[str, Any]) -> dict[str, Any]:
    entries = details["per_subject"]
    return {
        "subjects": sorted({entry["subject"] for entry in entries}),
        "metrics": list(dict.fromkeys(entry["metric"] for entry in entries)),
        "cells": {(entry["subject"], entry["metric"]): entry for entry in entries},
    }


def _embedding(evaluated: Evaluated) -> dict[str, Any] | None:
    """Test embeddings in two dimensions, by t-SNE from principal components; coordinates in 0..100."""
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
    """Every trained stage with its curves."""
    stages = []
    for path in sorted(run.glob("*/metrics.jsonl")):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        svg = plots.curves_svg(path.parent.name, lines, name=f"curves-{path.parent.name}")
        if svg is not None:
            stages.append({"name": path.parent.name, "svg": svg})
    return stages


def _commands(run: Path) -> list[str]:
    """What was typed to train the stages, in that order, as their environment.json has it, and what follows."""
    import shlex

    files = sorted(run.glob("*/environment.json"))
    starts = [start for path in files for start in json.loads(path.read_text(encoding="utf-8")) if start.get("command")]
    starts.sort(key=lambda start: str(start.get("started", "")))  # stable: a folder's own order stays
    # The first word is where neuroimagen lay on that machine, or its module where a demo called it.
    commands = [shlex.join(["neuroimagen", *start["command"][1:]]) for start in starts]
    return [*commands, *(f"neuroimagen {name} --run {run}" for name in ("reconstruct", "evaluate", "report"))]
