"""An evaluated run: what `evaluate` left in RUN/report, and the images of its segments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.reading import content_of, held_inside, read_json, read_json_object
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.format.npz import open_npz
from neuroimagen.trainer.evaluation.evaluate import DETAILS_FILE, EEG_FILE
from neuroimagen.trainer.evaluation.metrics.metric import ImageMetric, Metric
from neuroimagen.trainer.evaluation.metrics.registry import all_metrics
from neuroimagen.trainer.evaluation.results import ITEMS_FILE, RESULTS_FILE, Result, read_items, read_results
from neuroimagen.trainer.reconstruction.manifest import read_image


@dataclass(frozen=True, kw_only=True)
class Item:
    """One reconstruction of the model with its figures, as items.csv has it."""

    segment: str
    stimulus: str
    label: int
    subject: int
    predicted: int | None
    """The class that the classifier recognises the image as; None where the evaluation had no classifier."""
    file: str
    figures: Mapping[str, float]


_BESIDE: Mapping[str, str] = {"saliency_only": "saliency map", "neuroimagen": "NeuroImagen"}
"""Conditions whose images stand between the stimulus and the reconstruction → the heading of their column."""
_GREY = 232


class Evaluated:
    """An evaluated run as its report needs it; also one that an earlier version evaluated."""

    def __init__(self, run: Path, dataset: Dataset) -> None:
        """Raises UserError if the run has not been evaluated, or its results cannot be read."""
        self.run = run
        self.dataset = dataset
        folder = run / "report"
        for name in (RESULTS_FILE, DETAILS_FILE, ITEMS_FILE, EEG_FILE):
            if not (folder / name).is_file():
                raise UserError(f"{run} has no report/{name}. Run `neuroimagen evaluate --run {run}` first.")
        self.results: list[Result] = read_results(folder / RESULTS_FILE)
        self.details = _read_details(folder / DETAILS_FILE)
        with open_npz(folder / EEG_FILE) as arrays:
            self.eeg = {name: arrays[name] for name in arrays.files}
        self._lines = read_items(folder / ITEMS_FILE)
        self.class_names: list[str] = self.details["classes"]

    @cached_property
    def main_condition(self) -> str:
        """The condition whose images are shown: the headline, or the first there is."""
        conditions = dict.fromkeys(line["condition"] for line in self._lines)
        # Evaluations of earlier versions name no headline: it was `full`.
        headline = self.details.get("headline", {}).get("condition", "full")
        return headline if headline in conditions else next(iter(conditions), "full")

    @property
    def notes(self) -> Mapping[str, str]:
        """Condition → what stands beside its title: that it is the headline, how many segments it was drawn for."""
        notes: Mapping[str, str] = self.details.get("notes", {})
        return notes

    @cached_property
    def items(self) -> list[Item]:
        """The first sample of every segment of the main condition."""
        return [
            _item(line) for line in self._lines if line["condition"] == self.main_condition and line["sample"] == "0"
        ]

    @cached_property
    def _beside(self) -> dict[str, dict[str, str]]:
        """What is shown between stimulus and reconstruction: its heading → segment → file."""
        found: dict[str, dict[str, str]] = {}
        for condition, heading in _BESIDE.items():
            lines = (line for line in self._lines if line["condition"] == condition and line["sample"] == "0")
            files = {line["segment"]: line["file"] for line in lines}
            if files and condition != self.main_condition:
                found[heading] = files
        return found

    @cached_property
    def shown_items(self) -> list[Item]:
        """The items that examples are chosen from: those with an image in every column; all of a class that has none,
        where conditions were drawn for some of the segments.
        """
        whole = [item for item in self.items if all(item.segment in files for files in self._beside.values())]
        labels = {item.label for item in whole}
        return [*whole, *(item for item in self.items if item.label not in labels)]

    @cached_property
    def _stimulus_index(self) -> dict[str, int]:
        return {key: index for index, key in enumerate(self.dataset.stimuli.keys)}

    @property
    def columns(self) -> list[str]:
        """Which images are shown of a segment."""
        return ["stimulus", *self._beside, "reconstruction"]

    def images(self, item: Item) -> list[np.ndarray]:
        """The images of `columns` of one segment, uint8 [S, S, 3]; grey where a condition was not drawn for it."""
        folder = self.run / "reconstructions"
        reconstruction = read_image(held_inside(folder, item.file))
        stimulus = self.dataset.stimuli.images([self._stimulus_index[item.stimulus]], reconstruction.shape[1])[0]
        images = [stimulus]
        for files in self._beside.values():
            file = files.get(item.segment)
            grey = np.full_like(reconstruction, _GREY)
            images.append(grey if file is None else read_image(held_inside(folder, file)))
        return [image.transpose(1, 2, 0) for image in (*images, reconstruction)]


def evaluated_data(run: Path, *, given: Path | None = None) -> Path:
    """The data set that a run was evaluated on: `given`, else as its evaluation says. Raises UserError if the run has
    not been evaluated, or if the file is damaged.
    """
    path = run / "report" / DETAILS_FILE
    if not path.is_file():
        raise UserError(f"{run} has not been evaluated. Run `neuroimagen evaluate --run {run}` first.")
    if given is not None:
        return given
    with content_of(f"use {path}", remedy="Run `neuroimagen evaluate` again, or give --data."):
        return Path(read_json_object(path)["data"])


def _read_details(path: Path) -> dict[str, Any]:
    details: dict[str, Any] = read_json(path)
    data = details["provenance"]["data"]
    if "parts" in data:  # the key of earlier versions
        data["splits"] = data.pop("parts")
    return details


def _item(line: Mapping[str, str]) -> Item:
    words = {"condition", "segment", "stimulus", "label", "subject", "sample", "file", "predicted"}
    return Item(
        segment=line["segment"],
        stimulus=line["stimulus"],
        label=int(line["label"]),
        subject=int(line["subject"]),
        predicted=int(line["predicted"]) if line.get("predicted") else None,
        file=line["file"],
        figures={name: float(value) for name, value in line.items() if name not in words},
    )


def example_metrics(items: Sequence[Item]) -> dict[str, Metric]:
    """The metrics that examples are ranked by and captioned with, as far as the items have them; none without items."""
    return {
        name: metric
        for name, metric in all_metrics().items()
        if items and name in items[0].figures and isinstance(metric, ImageMetric) and metric.ranks_examples
    }


def rank_rule(metrics: Mapping[str, Metric]) -> str:
    """In words, how examples are chosen."""
    titles = ", ".join(metric.title for metric in metrics.values())
    return f"best, median and worst by the mean rank among its test segments in {titles}"


def choose_examples(items: Sequence[Item], metrics: Mapping[str, Metric]) -> dict[int, list[Item]]:
    """Label → best, median and worst segment by the mean rank in `metrics`; equal ones in the order of their keys."""
    signs = {name: 1 if metric.higher_is_better else -1 for name, metric in metrics.items()}
    chosen: dict[int, list[Item]] = {}
    for label in sorted({item.label for item in items}):
        members = sorted((item for item in items if item.label == label), key=segment_of)
        figures = np.array([[sign * item.figures[name] for name, sign in signs.items()] for item in members])
        ranks = (figures[:, None, :] > figures[None, :, :]).sum(axis=1) + 0.5 * (figures[:, None] == figures[None]).sum(
            axis=1
        )
        order = np.argsort(-ranks.mean(axis=1), kind="stable")
        chosen[label] = [members[order[place]] for place in (0, (len(members) - 1) // 2, len(members) - 1)]
    return chosen


def segment_of(item: Item) -> str:
    """Key of the item's segment."""
    return item.segment
