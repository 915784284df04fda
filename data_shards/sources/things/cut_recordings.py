"""Recordings of people who see THINGS, cut when they are written; the test images are of classes of their own.

Test images are repeated, training images are shown once; but some training images are of the test images' concepts.
These are dropped, so that the test is zero-shot, as everyone reports it.
"""

import argparse
import dataclasses
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.options import add_images, add_split, add_split_seed, add_subjects
from neuroimagen.data_shards.sources.recordings.options import CutOptions, add_cut_options
from neuroimagen.data_shards.sources.recordings.source import RecordingsSource
from neuroimagen.data_shards.sources.recordings.tables.stimulus_table import StimulusTable
from neuroimagen.data_shards.sources.splits import DROPPED, Division, divide_zero_shot
from neuroimagen.data_shards.sources.things.image_set import concept_name


@dataclasses.dataclass(frozen=True, kw_only=True)
class ThingsCutOptions(CutOptions):
    """How recordings become segments, and what is held out."""

    root: Path
    """Folder of the recordings."""
    subjects: tuple[int, ...] | None = None
    """None takes all."""
    val_concepts: int = 100
    """Training concepts held out for validation."""


def add_things_cut_options(parser: argparse.ArgumentParser, root_help: str) -> None:
    """The options of ThingsCutOptions, each with the name of its field."""
    parser.add_argument("--eeg", dest="root", type=Path, required=True, metavar="DIR", help=root_help)
    add_images(parser, "folder of the images, <concept>/<file>")
    add_subjects(parser)
    add_cut_options(parser)
    add_split(
        parser,
        "leave-subject-out:S, by-session, or by-image, which is not zero-shot (default: every subject's test images)",
    )
    parser.add_argument(
        "--val-concepts", type=int, default=100, metavar="N", help="training concepts for val (default: 100)"
    )
    add_split_seed(parser, "which concepts those are (default: 0)")


class ThingsRecordingsSource(RecordingsSource):
    """A subclass adds the test images of each recording to `test_images` when it says what was shown."""

    test_images: set[str]
    _val_concepts: int

    def divided(self) -> Division:
        if self._options.split == "by-image":
            self.notes.append(
                "--split by-image mixes the published training and test images: the test is not zero-shot"
            )
            return super().divided()
        names = self._trials["image"].to_pylist()
        is_test = np.array([name in self.test_images for name in names])
        if not is_test.any():
            raise UserError("the recordings show no test image; without them only --split by-image can be used.")
        label = self._stimuli.label
        same_class = ~is_test & np.isin(label, label[is_test])
        kept = np.flatnonzero(~same_class)
        division = divide_zero_shot(
            split=self._options.split,
            is_test_image=is_test[kept],
            label=label[kept],
            subject=self._subject[self._recording][kept],
            session=np.array(self._session)[self._recording][kept],
            num_val_classes=self._val_concepts,
            seed=self._options.split_seed,
        )
        notes = list(division.notes)
        if same_class.any():
            notes.append(
                f"{int(same_class.sum())} of {len(names)} trials show training images of the test images' "
                f"{len(np.unique(label[is_test]))} concepts and are dropped, so that the test is zero-shot"
            )
        if dropped := int((division.splits == DROPPED).sum()):
            notes.append(f"{dropped} of {len(kept)} other trials are in none of train, val and test: {division.rule}")
        splits = np.full(len(names), DROPPED, dtype=division.splits.dtype)
        splits[kept] = division.splits
        return dataclasses.replace(division, splits=splits, notes=tuple(notes))


def table_of_images(names: list[str], *, where: str) -> StimulusTable:
    """Image and class of each trial, from names that end in <concept>/<file>, with either slash."""
    paths = [PurePosixPath(name.replace("\\", "/")) for name in names]
    for name, path in zip(names, paths, strict=True):
        if len(path.parts) < 2 or ".." in path.parts[-2:]:
            raise UserError(f"{where}: image {name[:100]!r} is not of the form <concept>/<file>.")
    columns = {
        "image": pa.chunked_array([[f"{path.parts[-2]}/{path.name}" for path in paths]], pa.string()),
        "class": pa.chunked_array([[concept_name(path.parts[-2]) for path in paths]], pa.string()),
    }
    return StimulusTable(where=where, columns=pa.table(columns))
