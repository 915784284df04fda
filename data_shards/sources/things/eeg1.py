"""Reads THINGS-EEG1 (Grootswagers et al. 2022): 50 subjects, BIDS BrainVision, 22,248 images once, 200 repeated.

<eeg>/sub-01/eeg/sub-01_task-rsvp_eeg.vhdr, …_events.tsv
    onset, duration   in samples, though BIDS has seconds
    stim              stimuli\\aardvark\\aardvark_01b.jpg, with either slash
    istarget          a target of the task: left out
    isteststim        one of the 200 images that are repeated
<images>/<concept>/<file>
"""

import argparse
from pathlib import Path

import numpy as np

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.options import options_from
from neuroimagen.data_shards.sources.recordings.events.sidecar import events_tsv, onsets_s
from neuroimagen.data_shards.sources.recordings.events.trials import Joined
from neuroimagen.data_shards.sources.recordings.files.finding import find_in_folder
from neuroimagen.data_shards.sources.recordings.files.opening import Opened, RecordingFile
from neuroimagen.data_shards.sources.recordings.tables.stimulus_table import StimulusTable
from neuroimagen.data_shards.sources.things.cut_recordings import (
    ThingsCutOptions,
    ThingsRecordingsSource,
    add_things_cut_options,
    table_of_images,
)

_TRUE, _FALSE = ("1", "1.0", "true"), ("0", "0.0", "false", "n/a", "")


class ThingsEeg1Source(ThingsRecordingsSource):
    """The recordings of one or more subjects."""

    NAME = "things-eeg1"
    HELP = "THINGS-EEG1, the BIDS folder (50 subjects)"
    DESCRIPTION = (
        "Cut THINGS-EEG1's recordings at the rows of their events.tsv, whose times are in samples. The repeated images "
        "are the test split; training images of their concepts are dropped, so that the test is zero-shot; val holds "
        "out whole training concepts."
    )
    EXAMPLES = """
    neuroimagen data ingest things-eeg1 --eeg ds003825/ --images object_images/ --band 0.1:100 --resample 250 \\
      --tmin 0 --tmax 0.5 --baseline=-0.1:0 --reference average --out data/things-eeg1
    """

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        add_things_cut_options(parser, "the BIDS folder")

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> "ThingsEeg1Source":
        return cls(options_from(args, ThingsCutOptions))

    def __init__(self, options: ThingsCutOptions) -> None:
        self.test_images, self._val_concepts = set(), options.val_concepts
        if not options.root.is_dir():
            raise UserError(f"there is no folder {options.root}.")
        files = find_in_folder(options.root, datatypes=("eeg",))
        super().__init__(options, _of_subjects(files, options), name=self.NAME)

    def occurrences(self, opened: Opened, notes: list[str]) -> tuple[StimulusTable, Joined]:
        found = events_tsv(opened)
        if found is None:
            raise UserError(f"{opened.file.path} has no events.tsv.")
        path, table = found
        if missing := [name for name in ("stim", "istarget", "isteststim") if name not in table.column_names]:
            raise UserError(f"{path} has no column {missing[0]!r}; its columns are {', '.join(table.column_names)}.")
        onset = onsets_s(table, "onset", path)
        sample = _samples(onset, opened, notes)
        stim = np.array(table["stim"].to_pylist(), dtype=object)
        target, test = _flags(table, "istarget", path), _flags(table, "isteststim", path)
        shown = np.isfinite(onset) & ~np.isin(stim, ("", "n/a"))
        if other := int((~shown).sum()):
            notes.append(f"{opened.file.name}: {other} of {len(shown)} rows of events.tsv have no onset or no image")
        if targets := int((shown & target).sum()):
            notes.append(f"{opened.file.name}: {targets} of {int(shown.sum())} trials are targets and left out")
        rows = np.flatnonzero(shown & ~target)
        images = table_of_images([str(stim[row]) for row in rows], where=str(path))
        names = images.text("image").to_pylist()
        self.test_images.update(name for name, is_test in zip(names, test[rows].tolist(), strict=True) if is_test)
        return images, Joined(row=np.arange(len(rows)), sample=sample[rows])


def _samples(onset: np.ndarray, opened: Opened, notes: list[str]) -> np.ndarray:
    """int64: the sample of each onset, which the published files give in samples; −1 where it is unknown.

    Seconds, as BIDS has them, are known by lying within the recording's length; both is not possible, as a recording
    of an hour has 3.6 million samples.
    """
    known = onset[np.isfinite(onset)]
    length_s = opened.data.n_times / opened.sfreq
    if known.size and known.max() > length_s:
        if known.max() >= opened.data.n_times or (known != np.rint(known)).any():
            raise UserError(
                f"{opened.file.path}: onsets up to {known.max():g} lie neither within its {length_s:g} seconds nor "
                f"within its {opened.data.n_times} samples."
            )
        notes.append(f"{opened.file.name}: events.tsv gives onsets in samples, a known slip; they are read as such")
        return np.where(np.isfinite(onset), onset, -1).astype(np.int64)
    return np.rint(np.where(np.isfinite(onset), onset * opened.sfreq, -1)).astype(np.int64)


def _flags(table: object, name: str, path: Path) -> np.ndarray:
    texts = [text.lower() for text in table[name].to_pylist()]  # type: ignore[index]
    if wrong := [text for text in texts if text not in (*_TRUE, *_FALSE)]:
        raise UserError(f"{path}: {name} {wrong[0]!r} is neither 0 nor 1.")
    return np.array([text in _TRUE for text in texts], dtype=bool)


def _of_subjects(files: list[RecordingFile], options: ThingsCutOptions) -> list[RecordingFile]:
    numbers = {file: int(file.subject) for file in files if file.subject and file.subject.isdigit()}
    present = sorted(set(numbers.values()))
    if unknown := [subject for subject in options.subjects or () if subject not in present]:
        raise UserError(f"subject {unknown[0]} is not under {options.root}; there are {present}.")
    return [file for file in files if options.subjects is None or numbers.get(file) in options.subjects]
