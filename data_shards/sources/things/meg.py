"""Reads THINGS-MEG (Hebart et al. 2023), the preprocessed epochs: 4 people, 271 channels, 200 Hz.

    <eeg>/preprocessed_P1-epo.fif, preprocessed_P1-epo-1.fif …   epochs of one person, in parts
    <images>/<concept>/<file>                                    the 26,107 images; an event is an image's number,
                                                                 from 1, in the order of sorted names; 999999: catch

The images that a person saw twelve times are the zero-shot test.
"""

import argparse
import dataclasses
import re

import numpy as np

from neuroimagen.data_shards.common.errors import UsageError, UserError
from neuroimagen.data_shards.sources.options import options_from
from neuroimagen.data_shards.sources.readers.images import ENDINGS
from neuroimagen.data_shards.sources.recordings.events.trials import Joined
from neuroimagen.data_shards.sources.recordings.files.opening import Opened, RecordingFile
from neuroimagen.data_shards.sources.recordings.tables.stimulus_table import StimulusTable
from neuroimagen.data_shards.sources.things.cut_recordings import (
    ThingsCutOptions,
    ThingsRecordingsSource,
    add_things_cut_options,
    table_of_images,
)

CATCH_CODE = 999_999
_FIRST_PART = re.compile(r"preprocessed_P(\d+)-epo\.fif(\.gz)?")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ThingsMegOptions(ThingsCutOptions):
    """How the epochs become segments."""

    picks: tuple[str, ...] = ("meg",)
    test_repeats: int = 12
    """How often a person saw each test image."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.test_repeats < 2:
            raise UsageError(
                f"--test-repeats {self.test_repeats}: training images are shown once; it must be 2 or more."
            )


class ThingsMegSource(ThingsRecordingsSource):
    """The epochs of one or more people."""

    NAME = "things-meg"
    HELP = "THINGS-MEG, the preprocessed epochs (4 people)"
    DESCRIPTION = (
        "Cut THINGS-MEG's epochs files. The images that a person saw twelve times are the test split; training images "
        "of their concepts are dropped, so that the test is zero-shot; val holds out whole training concepts."
    )
    EXAMPLES = """
    neuroimagen data ingest things-meg --eeg derivatives/preprocessed --images object_images/ --tmin 0 --tmax 1 \\
      --out data/things-meg
    """

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        add_things_cut_options(parser, "folder of preprocessed_P1-epo.fif …")
        parser.set_defaults(picks=list(ThingsMegOptions.picks))
        parser.add_argument(
            "--test-repeats",
            type=int,
            default=ThingsMegOptions.test_repeats,
            metavar="N",
            help="how often a person saw each test image (default: 12)",
        )

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> "ThingsMegSource":
        return cls(options_from(args, ThingsMegOptions))

    def __init__(self, options: ThingsMegOptions) -> None:
        self.test_images, self._val_concepts = set(), options.val_concepts
        self._repeats = options.test_repeats
        self._names = sorted(
            f"{path.parent.name}/{path.name}"
            for path in options.images.glob("*/*")
            if path.suffix.lower() in ENDINGS and not path.name.startswith(".")
        )
        if not self._names:
            raise UserError(f"{options.images} holds no images <concept>/<file>.")
        super().__init__(options, _files(options), name=self.NAME)
        self.notes.insert(
            0,
            f"events are numbers of the {len(self._names)} images under {options.images} in the order of sorted names: "
            f"1 is {self._names[0]}, {len(self._names)} is {self._names[-1]}. It must be the whole image folder",
        )

    def occurrences(self, opened: Opened, notes: list[str]) -> tuple[StimulusTable, Joined]:
        if not opened.is_epochs:
            raise UserError(f"{opened.file.path} holds no epochs.")
        codes = opened.data.events[:, 2].astype(np.int64)
        shown = codes != CATCH_CODE
        if catches := int((~shown).sum()):
            notes.append(f"{opened.file.name}: {catches} of {len(codes)} epochs are catch trials and left out")
        wrong = codes[shown & ((codes < 1) | (codes > len(self._names)))]
        if wrong.size:
            raise UserError(
                f"{opened.file.path}: event {wrong[0]} is no number of the {len(self._names)} images ({wrong.size} "
                "such epochs). Is --images the folder of all images of THINGS?"
            )
        rows = np.flatnonzero(shown)
        images, count = np.unique(codes[rows], return_counts=True)
        self.test_images.update(self._names[code - 1] for code in images[count == self._repeats].tolist())
        table = table_of_images([self._names[code - 1] for code in codes[rows].tolist()], where=opened.file.name)
        return table, Joined(row=np.arange(len(rows)), sample=rows)


def _files(options: ThingsMegOptions) -> list[RecordingFile]:
    """The first part of each person's epochs; MNE reads the others by itself."""
    found = {
        int(match[1]): path
        for path in sorted(options.root.iterdir() if options.root.is_dir() else ())
        if (match := _FIRST_PART.fullmatch(path.name))
    }
    if not found:
        raise UserError(f"{options.root} holds no preprocessed_P1-epo.fif, preprocessed_P2-epo.fif …")
    wanted = list(options.subjects or sorted(found))
    if unknown := [subject for subject in wanted if subject not in found]:
        raise UserError(f"subject {unknown[0]} is not under {options.root}; there are {sorted(found)}.")
    return [RecordingFile(path=found[subject], name=found[subject].name, subject=str(subject)) for subject in wanted]
