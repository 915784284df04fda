"""Cuts the recordings of a BIDS folder into segments, by their own sidecars.

    channels.tsv      types, units and bad channels, as mne-bids reads them
    events.tsv        one row an occurrence: onset, and a column that says what was shown
    participants.tsv  who takes part; compared with the recordings, and kept in dataset.json

With --events FILE the values of the stimulus column are looked up in a table event, image, class; without it they are
paths of images below --images, and --class-column says what the images show.
"""

import argparse
import dataclasses
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.format.schema import DatasetMetadata
from neuroimagen.data_shards.sources.options import add_split, add_split_seed, options_from
from neuroimagen.data_shards.sources.recordings.events.reading import NoEventsError
from neuroimagen.data_shards.sources.recordings.events.sidecar import events_tsv, onsets_s
from neuroimagen.data_shards.sources.recordings.events.trials import Joined
from neuroimagen.data_shards.sources.recordings.files.finding import find_in_folder
from neuroimagen.data_shards.sources.recordings.files.opening import Opened, RecordingFile
from neuroimagen.data_shards.sources.recordings.options import CutOptions, add_cut_options
from neuroimagen.data_shards.sources.recordings.source import RecordingsSource
from neuroimagen.data_shards.sources.recordings.tables.event_names import event_key, event_keys
from neuroimagen.data_shards.sources.recordings.tables.stimulus_table import (
    StimulusTable,
    check_stimulus_table,
    read_stimulus_table,
    rows_of_events,
)
from neuroimagen.data_shards.sources.recordings.tables.text_table import read_text_table

_STIMULUS_COLUMNS = ("stim_file", "trial_type", "value")
_KEPT = ("split", "block", "caption")
"""Columns of events.tsv that are used if they are there."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BidsOptions(CutOptions):
    """Which recordings of a BIDS folder are cut, and which columns say what was shown."""

    root: Path
    events: Path | None = None
    """A row for each value of the stimulus column: event, image, class."""
    stimulus_column: str | None = None
    """Column of events.tsv that names the stimulus; None: the first of stim_file, trial_type and value."""
    class_column: str | None = None
    """Column of events.tsv that names the class; None: class, or trial_type."""
    subjects: tuple[str, ...] = ()
    """Labels of the entity `sub`, as are the next ones; empty: all."""
    sessions: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()


class BidsSource(RecordingsSource):
    """The recordings of a BIDS folder, with what their sidecars say."""

    NAME = "bids"
    HELP = "a BIDS folder of EEG or MEG, raw or derivative"
    DESCRIPTION = (
        "Cut the recordings of a BIDS folder at the rows of their events.tsv. The stimulus column holds paths of "
        "images "
        "below --images, or names that the table --events explains (columns event, image, class; caption and split are "
        "optional). Types, units and bad channels are those of channels.tsv; subject, session, task and run those of "
        "the files' names."
    )
    EXAMPLES = """
    neuroimagen data ingest bids my-study/ --class-column category --band 1:40 --resample 250 --tmax 0.8 \\
      --baseline=-0.2:0 --out data/mine
    neuroimagen data ingest bids my-study/ --events codes.csv --stimulus-column value --images images/ \\
      --tasks objects --out data/objects
    """

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("root", type=Path, metavar="ROOT", help="the folder that the subjects' folders lie in")
        parser.add_argument("--images", type=Path, metavar="DIR", help="folder of the images (default: ROOT/stimuli)")
        parser.add_argument("--events", type=Path, metavar="FILE", help="CSV or TSV: event, image, class …")
        parser.add_argument(
            "--stimulus-column", metavar="NAME", help="of events.tsv (default: stim_file, trial_type or value)"
        )
        parser.add_argument("--class-column", metavar="NAME", help="of events.tsv (default: class, or trial_type)")
        for name in ("subjects", "sessions", "tasks", "runs"):
            parser.add_argument(
                f"--{name}", nargs="+", default=[], metavar="LABEL", help="these only, by BIDS label (default: all)"
            )
        add_cut_options(parser)
        add_split(parser)
        add_split_seed(parser)

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> "BidsSource":
        if args.images is None:
            args.images = args.root / "stimuli"
        return cls(options_from(args, BidsOptions))

    def __init__(self, options: BidsOptions) -> None:
        self._bids_options = options
        if not options.root.is_dir():
            raise UserError(f"there is no folder {options.root}.")
        notes: list[str] = []
        files = _chosen(options, notes)
        self._codes: StimulusTable | None = None
        self._row_of_event: dict[str, int] = {}
        if options.events is not None:
            self._codes = read_stimulus_table(options.events, ("event", "image", "class"), ("caption", "split"))
            self._row_of_event = rows_of_events(self._codes)
            notes += self._codes.notes
        self._columns: dict[str, None] = {}
        self._class_columns: dict[str, None] = {}
        self._participants = _participants(options.root, files, notes)
        super().__init__(
            options,
            files,
            name=options.root.resolve().name,
            tables=() if options.events is None else (options.events,),
        )
        shown = f"stimuli are those of column {' or '.join(map(repr, self._columns))} of events.tsv"
        if self._class_columns:
            shown += f", classes those of {' or '.join(map(repr, self._class_columns))}"
        self.notes = [shown, *notes, *self.notes]

    def events_named(self) -> Collection[str]:
        return self._row_of_event

    def occurrences(self, opened: Opened, notes: list[str]) -> tuple[StimulusTable, Joined]:
        found = events_tsv(opened)
        if found is None:
            raise NoEventsError(
                f"{opened.file.path} has no events.tsv. If its events are annotations or triggers, use `data ingest "
                "mne`."
            )
        path, table = found
        if opened.is_epochs:
            raise UserError(f"{opened.file.path} holds epochs; use `data ingest mne` with --trials and --join order.")
        column = self._stimulus_column(path, table)
        onset = onsets_s(table, "onset", path)
        if self._codes is not None:
            keys = event_keys(table[column])
            shown = np.array([key in self._row_of_event for key in keys.tolist()], dtype=bool)
            _note_others(Counter(keys[~shown].tolist()), column, opened.file.name, notes)
        else:
            texts = table[column].to_numpy(zero_copy_only=False)
            shown = (texts != "n/a") & (texts != "")
            _note_others(Counter({"n/a": int((~shown).sum())}), column, opened.file.name, notes)
        if not shown.any():
            raise NoEventsError(f"{path}: column {column!r} names no stimulus in any of its {len(table)} rows.")
        timed = shown & np.isfinite(onset)
        if missing := int((shown & ~timed).sum()):
            notes.append(f"{opened.file.name}: {missing} events have no onset in events.tsv and are left out")
        rows = np.flatnonzero(timed)
        sample = np.rint(onset[rows] * opened.sfreq).astype(np.int64)
        if self._codes is not None:
            row = np.array([self._row_of_event[key] for key in keys[rows].tolist()], dtype=np.int64)
            return self._codes, Joined(row=row, sample=sample)
        chosen = self._own_table(path, pc.take(table, pa.array(rows)), column)
        return chosen, Joined(row=np.arange(len(rows)), sample=sample)

    def _stimulus_column(self, path: Path, table: pa.Table) -> str:
        asked, names = self._bids_options.stimulus_column, table.column_names
        if asked is not None and asked not in names:
            raise NoEventsError(
                f"--stimulus-column: {path} has no column {asked!r}; its columns are {', '.join(names)}."
            )
        column = asked or next((name for name in _STIMULUS_COLUMNS if name in names), None)
        if column is None:
            raise NoEventsError(
                f"{path} has none of the columns {', '.join(_STIMULUS_COLUMNS)}; say which of {', '.join(names)} "
                "names the "
                "stimulus with --stimulus-column."
            )
        self._columns[column] = None
        return column

    def _own_table(self, path: Path, table: pa.Table, column: str) -> StimulusTable:
        """The rows of events.tsv as a table of stimuli: its stimulus column is the image."""
        asked, names = self._bids_options.class_column, table.column_names
        known = [name for name in ("class", "trial_type") if name in names and name != column]
        class_column = asked or next(iter(known), None)
        if class_column is None or class_column not in names:
            raise UserError(
                f"{path}: {f'no column {asked!r}' if asked else 'no column says what the images show'}; its columns "
                "are "
                f"{', '.join(names)}. Name one with --class-column, or give --events FILE (event, image, class)."
            )
        self._class_columns[class_column] = None
        kept = [name for name in _KEPT if name in names and name not in (column, class_column)]
        columns: dict[str, Any] = {
            # Paths are written with either slash.
            "image": pc.replace_substring(table[column], "\\", "/"),
            "class": table[class_column],
            **{name: pc.if_else(pc.equal(table[name], "n/a"), "", table[name]) for name in kept},
        }
        return check_stimulus_table(str(path), pa.table(columns), ("image", "class"), _KEPT)

    def metadata(self) -> DatasetMetadata:
        made = super().metadata()
        facts = {
            "stimulus_columns": list(self._columns),
            "class_columns": list(self._class_columns),
            "participants": self._participants,
        }
        return dataclasses.replace(made, provenance={**made.provenance, "bids": facts})


def _chosen(options: BidsOptions, notes: list[str]) -> list[RecordingFile]:
    """The recordings of the asked subjects, sessions, tasks and runs."""
    wants_eeg = any(pick.lower() not in ("meg", "mag", "grad") for pick in options.picks)
    wants_meg = any(pick.lower() in ("meg", "mag", "grad") for pick in options.picks)
    # EEG is recorded with MEG too.
    files = find_in_folder(options.root, datatypes=("meg",) if wants_meg and not wants_eeg else ("eeg", "meg"))
    found = files
    for what, asked in (
        ("subject", options.subjects),
        ("session", options.sessions),
        ("task", options.tasks),
        ("run", options.runs),
    ):
        if not asked:
            continue
        labels = {file: getattr(file, what) for file in files}
        keys = {event_key(label) for label in labels.values() if label is not None}
        if unknown := [label for label in asked if event_key(label.removeprefix(f"{what[:3]}-")) not in keys]:
            there = ", ".join(sorted({label for label in labels.values() if label is not None})) or "none"
            raise UserError(f"--{what}s: {options.root} has no {what} {unknown[0]!r}; there are {there}.")
        wanted = {event_key(label.removeprefix(f"{what[:3]}-")) for label in asked}
        found = [file for file in found if event_key(labels[file] or "") in wanted]
    if not found:
        raise UserError(
            f"no recording below {options.root} is of all that --subjects, --sessions, --tasks and --runs ask."
        )
    if len(found) < len(files):
        notes.append(
            f"{len(found)} of {len(files)} recordings are taken, as --subjects, --sessions, --tasks, --runs say"
        )
    return found


def _participants(root: Path, files: list[RecordingFile], notes: list[str]) -> dict[str, dict[str, str]]:
    """The rows of participants.tsv of the subjects that have recordings, by label."""
    path = root / "participants.tsv"
    if not path.is_file():
        return {}
    table = read_text_table(path)
    if "participant_id" not in table.column_names:
        raise UserError(f"{path} has no column 'participant_id'; its columns are {', '.join(table.column_names)}.")
    rows = {row["participant_id"].removeprefix("sub-"): row for row in table.to_pylist()}
    recorded = dict.fromkeys(file.subject for file in files if file.subject is not None)
    if unlisted := [label for label in recorded if label not in rows]:
        notes.append(f"{len(unlisted)} subjects are not in participants.tsv: {', '.join(unlisted[:10])}")
    if silent := [label for label in rows if label not in recorded]:
        shown = ", ".join(silent[:10]) + (" …" if len(silent) > 10 else "")
        notes.append(f"{len(silent)} of {len(rows)} participants have no recording that is taken: {shown}")
    return {
        label: {name: text for name, text in rows[label].items() if name != "participant_id" and text != "n/a"}
        for label in recorded
        if label in rows
    }


def _note_others(others: Counter, column: str, name: str, notes: list[str]) -> None:
    others = +others
    if others:
        shown = ", ".join(f"{key!r} × {count}" for key, count in others.most_common(5))
        more = " …" if len(others) > 5 else ""
        notes.append(
            f"{name}: {sum(others.values())} rows of events.tsv are no stimuli by their column {column!r}: "
            f"{shown}{more}"
        )
