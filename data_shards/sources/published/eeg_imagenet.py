"""Reads EEG-ImageNet (Zhu et al. 2024): 16 subjects, 62 channels, 80 classes of ImageNet.

    EEG-ImageNet_1.pth, EEG-ImageNet_2.pth   torch.save of {'dataset': [{'eeg_data': Tensor [62, 501], 'granularity':
                                             coarse or fine, 'subject': 0..15, 'label': WordNet id, 'image': name}],
                                             'labels': [WordNet id], 'images': [name]}
    <images>/<wnid>/<name>.JPEG

Subjects are numbered from 1 here, as everywhere. A subject saw each class as one run of images (a block design), so
within a subject the class and the time of recording can't be told apart; `block` counts a subject's runs of one class.
"""

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from neuroimagen.data_shards.common.errors import UsageError, UserError
from neuroimagen.data_shards.sources.class_names import EEGCVPR40_CLASS_NAMES
from neuroimagen.data_shards.sources.options import (
    add_class_names,
    add_images,
    add_on_missing,
    add_split,
    add_split_seed,
    add_subjects,
    add_window,
    options_from,
)
from neuroimagen.data_shards.sources.published.columns import Row, RowSource
from neuroimagen.data_shards.sources.published.tables import read_text_mapping
from neuroimagen.data_shards.sources.readers.pth import load_pth
from neuroimagen.data_shards.sources.splits import divide

_SFREQ = 1000.0
_GRANULARITIES = ("coarse", "fine")
_KEYS = ("eeg_data", "granularity", "subject", "label", "image")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EegImageNetOptions:
    """What to take from the files."""

    eeg: tuple[Path, ...]
    images: Path
    subjects: tuple[int, ...] | None = None
    """Numbers from 1; None takes all."""
    granularity: str = "all"
    """coarse (40 classes), fine (40 more classes in 5 groups) or all."""
    window: tuple[int, int] = (40, 440)
    """Samples to keep: start, and end (excluded); those that the released loader takes."""
    class_names: Path | None = None
    """JSON {WordNet id: name} for classes that are not among EEGCVPR40's."""
    split: str | None = None
    split_seed: int = 0
    on_missing: str = "skip"
    """Missing or unreadable images: skip (report them and leave their segments out) or stop."""

    def __post_init__(self) -> None:
        if self.granularity not in ("all", *_GRANULARITIES):
            raise UsageError(f"--granularity {self.granularity!r} is not one of all, {', '.join(_GRANULARITIES)}.")
        if not 0 <= self.window[0] < self.window[1]:
            raise UsageError(f"--window {self.window[0]}:{self.window[1]} is empty or negative.")
        if self.on_missing not in ("skip", "stop"):
            raise UsageError(f"--on-missing {self.on_missing!r} is neither skip nor stop.")


class EegImageNetSource(RowSource):
    """The files; their tensors stay on disk, mapped."""

    NAME = "eeg-imagenet"
    HELP = "the files of EEG-ImageNet (16 subjects, 80 classes)"
    DESCRIPTION = (
        "Read EEG-ImageNet's .pth files (nothing in them is executed). The study is a block design: read what "
        "`data audit` says of it before you believe an accuracy within a subject."
    )
    EXAMPLES = """
    neuroimagen data ingest eeg-imagenet --eeg EEG-ImageNet_1.pth EEG-ImageNet_2.pth --images ILSVRC/ \\
      --class-names names.json --split leave-subject-out:3 --out data/eeg-imagenet
    """

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        default = EegImageNetOptions
        parser.add_argument(
            "--eeg", type=Path, nargs="+", required=True, metavar="FILE", help="EEG-ImageNet_1.pth EEG-ImageNet_2.pth"
        )
        add_images(parser, "folder of images, <wnid>/<name>.JPEG")
        add_subjects(parser, "these only, numbered from 1 (default: all)")
        parser.add_argument(
            "--granularity",
            choices=("all", *_GRANULARITIES),
            default=default.granularity,
            help="classes to take (default: all)",
        )
        add_window(parser, default.window)
        add_class_names(parser)
        add_split(parser, "by-image or leave-subject-out:S (default: by-image, 80/10/10 %%)")
        add_split_seed(parser)
        add_on_missing(parser)

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> "EegImageNetSource":
        return cls(options_from(args, EegImageNetOptions))

    def __init__(self, options: EegImageNetOptions) -> None:
        self._options = options
        items = [item for path in options.eeg for item in _items(path)]
        self._items, notes = self._chosen(items)
        names = _class_names({item["label"] for item in self._items}, options.class_names)
        self._rows = list(_rows(self._items, names))
        self._n_channels = self._items[0]["eeg_data"].shape[0]
        self._n_samples = options.window[1] - options.window[0]
        self._sfreq = _SFREQ
        self._files = {path.name: path for path in options.eeg}
        self._steps = {"window": list(options.window)}
        division = divide(
            split=options.split,
            column=None,
            image=[row.image for row in self._rows],
            label=np.unique([row.class_name for row in self._rows], return_inverse=True)[1],
            subject=np.array([row.subject for row in self._rows]),
            seed=options.split_seed,
        )
        wnids = {name: wnid for wnid, name in names.items()}
        self._finish(options.images, division, notes=notes, wnids=wnids, on_missing=options.on_missing)

    def _chosen(self, items: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
        """The items that the options select, and what was left out."""
        options, notes = self._options, []
        present = sorted({item["subject"] + 1 for item in items})
        if unknown := [subject for subject in options.subjects or () if subject not in present]:
            raise UserError(f"subject {unknown[0]} is not in the files; numbered from 1, they have {present}.")
        for what, keep in (
            ("granularity", lambda item: options.granularity in ("all", item["granularity"])),
            ("subjects", lambda item: options.subjects is None or item["subject"] + 1 in options.subjects),
        ):
            kept = [item for item in items if keep(item)]
            if len(kept) < len(items):
                notes.append(f"{len(items) - len(kept)} of {len(items)} segments left out by --{what}")
            items = kept
        if not items:
            raise UserError("no segment is left; give other --subjects or --granularity.")
        channels = {item["eeg_data"].shape[0] for item in items}
        if len(channels) > 1:
            raise UserError(f"segments have {' and '.join(map(str, sorted(channels)))} channels.")
        end = options.window[1]
        long = [item for item in items if item["eeg_data"].shape[1] >= end]
        if len(long) < len(items):
            notes.append(f"{len(items) - len(long)} of {len(items)} segments dropped: they end before sample {end}")
        if not long:
            raise UserError(f"every segment ends before sample {end}; give a shorter --window.")
        return long, notes

    def _read(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        start, end = self._options.window
        for row in rows.tolist():
            yield self._items[row]["eeg_data"][:, start:end].float().numpy()


def _items(path: Path) -> list[dict[str, Any]]:
    """The checked items of a file, each label as a WordNet id and each image as a name."""
    import torch

    raw = load_pth(path)
    if not isinstance(raw, dict) or not isinstance(raw.get("dataset"), list) or not raw["dataset"]:
        raise UserError(f"{path} must hold a dictionary with a list 'dataset'.")
    checked = []
    for position, item in enumerate(raw["dataset"]):
        where = f"{path}: dataset[{position}]"
        if not isinstance(item, dict) or not set(_KEYS) <= set(item):
            raise UserError(f"{where} must hold {', '.join(_KEYS)}.")
        eeg = item["eeg_data"]
        if not isinstance(eeg, torch.Tensor) or eeg.ndim != 2 or eeg.is_complex():
            raise UserError(f"{where}: 'eeg_data' must be a tensor [channels, samples].")
        if item["granularity"] not in _GRANULARITIES:
            raise UserError(f"{where}: granularity {item['granularity']!r} is neither coarse nor fine.")
        if not isinstance(item["subject"], int) or item["subject"] < 0:
            raise UserError(f"{where}: subject {item['subject']!r} is not a number from 0.")
        label = _looked_up(item["label"], raw.get("labels"), f"{where}: label")
        image = _looked_up(item["image"], raw.get("images"), f"{where}: image")
        # A label, an image's name and its folder in ImageNet say the same, or every caption would be wrong.
        if image.startswith("n") and image.split("_", 1)[0] != label:
            raise UserError(f"{where}: the label is {label} and the image {image}; they are of different classes.")
        checked.append({**item, "label": label, "image": image})
    return checked


def _looked_up(value: Any, names: Any, where: str) -> str:
    """A name as it stands, or the one at this place of the file's list."""
    if isinstance(value, int) and isinstance(names, list) and 0 <= value < len(names):
        value = names[value]
    if not isinstance(value, str) or not value or "/" in value or value.startswith("."):
        raise UserError(f"{where} {str(value)[:60]!r} is neither a name nor a place in the file's list.")
    return value.rsplit(".", 1)[0] if value.lower().endswith((".jpeg", ".jpg")) else value


def _rows(items: list[dict[str, Any]], names: dict[str, str]) -> Iterator[Row]:
    """Rows with the block of each: a subject's run of one class, in the order of the file."""
    last: dict[int, tuple[str, int, int]] = {}
    for item in items:
        label, block, order = last.get(item["subject"], ("", -1, -1))
        block, order = (block, order + 1) if label == item["label"] else (block + 1, 0)
        last[item["subject"]] = (item["label"], block, order)
        yield Row(
            image=f"{item['label']}/{item['image']}.JPEG",
            class_name=names[item["label"]],
            subject=item["subject"] + 1,
            block=block,
            order=order,
        )


def _class_names(wnids: set[str], file: Path | None) -> dict[str, str]:
    names = {**EEGCVPR40_CLASS_NAMES, **(read_text_mapping(file) if file else {})}
    if unknown := sorted(wnids - set(names)):
        raise UserError(
            f"{len(unknown)} classes have no known name, the first is {unknown[0]}. Give --class-names FILE, JSON of "
            "the form {wnid: name}."
        )
    chosen = {wnid: names[wnid] for wnid in sorted(wnids)}
    if len(set(chosen.values())) < len(chosen):
        twice = next(name for name in chosen.values() if list(chosen.values()).count(name) > 1)
        raise UserError(f"two classes are called {twice!r}; give them different names with --class-names.")
    return chosen
