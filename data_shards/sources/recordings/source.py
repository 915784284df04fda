"""The base of the sources that cut recordings: it plans all segments from the headers, and reads when they are written.

A subclass says which recordings there are, and where each trial of a recording began and what was shown in it.
"""

import abc
import dataclasses
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from neuroimagen.data_shards.common.errors import UsageError, UserError
from neuroimagen.data_shards.common.progress import track
from neuroimagen.data_shards.format.schema import DatasetMetadata, SegmentRecord, StimulusRecord
from neuroimagen.data_shards.sources.base import Source
from neuroimagen.data_shards.sources.readers.hashes import file_records
from neuroimagen.data_shards.sources.recordings.blocks import blocks_and_order
from neuroimagen.data_shards.sources.recordings.channels.joining import joined_channels
from neuroimagen.data_shards.sources.recordings.channels.selection import STORED_UNITS, open_selected
from neuroimagen.data_shards.sources.recordings.cutting.processing import cut_epochs, cut_raw
from neuroimagen.data_shards.sources.recordings.cutting.windows import Cuts, Window
from neuroimagen.data_shards.sources.recordings.events.reading import NoEventsError
from neuroimagen.data_shards.sources.recordings.events.trials import Joined
from neuroimagen.data_shards.sources.recordings.files.opening import Opened, RecordingFile
from neuroimagen.data_shards.sources.recordings.files.pieces import Piece, pieces_of
from neuroimagen.data_shards.sources.recordings.mne_notes import NoteTaker, unreadable
from neuroimagen.data_shards.sources.recordings.options import CutOptions
from neuroimagen.data_shards.sources.recordings.part import Part, check_filters, plan_part
from neuroimagen.data_shards.sources.recordings.people import subject_labels
from neuroimagen.data_shards.sources.recordings.tables.stimulus_table import StimulusTable
from neuroimagen.data_shards.sources.splits import Division, divide
from neuroimagen.data_shards.sources.stimuli import Stimuli, encoded
from neuroimagen.data_shards.sources.subjects import LABELS_KEY, mapping_notes, number_subjects


class RecordingsSource(Source):
    """Recordings that are cut when they are written, one at a time."""

    NAME: str
    """The source's name in dataset.json."""

    def __init__(
        self,
        options: CutOptions,
        files: Sequence[RecordingFile],
        *,
        name: str,
        tables: Sequence[Path] = (),
        subjects: Sequence[str] = (),
        sessions: Sequence[str] = (),
    ) -> None:
        """`name`: of the data set. `tables`: files that are recorded by their hashes beside the recordings.

        `subjects`, `sessions`: labels of the options --subject and --session: one for all, or one for each recording.
        """
        self._options, self._name, self._tables = options, name, tables
        self.notes: list[str] = []
        parts = self._plan(files)
        self._sfreq = self._one_rate(parts)
        self._positions = joined_channels(
            [part.file.name for part in parts], [part.selection for part in parts], options.channels, self.notes
        )
        self._parts = parts
        self._trials = _trials_of(parts)
        self._stimuli = Stimuli(
            self._trials["image"],
            self._trials["class"],
            self._trials["caption"] if "caption" in self._trials.column_names else None,
            folder=options.images,
            where=parts[0].table.where,
        )
        self.notes += self._stimuli.notes
        self._number_people(subjects, sessions)
        self._division = self.divided()
        self.notes += self._division.notes
        self._kept = self._division.splits != ""

    @abc.abstractmethod
    def occurrences(self, opened: Opened, notes: list[str]) -> tuple[StimulusTable, Joined]:
        """What was shown in a recording, and where each of its trials began."""

    def divided(self) -> Division:
        """The split of every trial, once stimuli and people are known."""
        return divide(
            split=self._options.split,
            column=self._trials["split"].to_pylist() if "split" in self._trials.column_names else None,
            image=self._stimuli.number,
            label=self._stimuli.label,
            subject=self._subject[self._recording],
            session=np.array(self._session)[self._recording],
            seed=self._options.split_seed,
        )

    def events_named(self) -> Collection[str]:
        """Keys of events: annotations of these names are no marks of bad data."""
        return ()

    def _plan(self, files: Sequence[RecordingFile]) -> list[Part]:
        parts: list[Part] = []
        empty: list[tuple[str, UserError]] = []
        for file in track(files, total=len(files), desc="recordings", unit="file"):
            notes: list[str] = []
            opened, selection = open_selected(file, self._options, notes)
            check_filters(opened, self._options)
            try:
                pieces = [Piece(0, 0)] if opened.is_epochs else pieces_of(opened, notes)
                table, joined = self.occurrences(opened, notes)
            except NoEventsError as error:
                empty.append((file.name, error))
                continue
            parts.append(plan_part(opened, selection, pieces, table, joined, self._options, self.events_named(), notes))
            self.notes += notes
        if not parts:
            raise empty[0][1] if empty else UserError("there is no recording.")
        if empty:
            self.notes.append(
                f"{len(empty)} of {len(files)} recordings have none of the table's events and are left out: "
                f"{', '.join(name for name, _ in empty[:10])}{' …' if empty[10:] else ''}"
            )
        return parts

    def _one_rate(self, parts: Sequence[Part]) -> float:
        rates = {part.file.name: self._options.resample or part.facts["sfreq"] for part in parts}
        first = next(iter(rates.values()))
        if other := [name for name, rate in rates.items() if rate != first]:
            raise UserError(
                f"{other[0]} has a sampling rate of {rates[other[0]]:g} Hz, {parts[0].file.name} has {first:g} Hz. "
                "Bring "
                "them to one with --resample."
            )
        return float(first)

    def _number_people(self, subjects: Sequence[str], sessions: Sequence[str]) -> None:
        parts = self._parts
        files = [part.file for part in parts]
        labels = subject_labels(files, self._said("subject"), subjects, self.notes)
        self._subject, self._labels = number_subjects(labels)
        self.notes += mapping_notes(self._labels)
        if sessions and len(sessions) not in (1, len(files)):
            raise UsageError(
                f"--session has {len(sessions)} labels for {len(files)} recordings; give one, or one for each "
                "recording."
            )
        said = self._said("session", own=False)
        stated = list(sessions) * (len(files) if len(sessions) == 1 else 1) or [
            file.session or own or "" for file, own in zip(files, said, strict=True)
        ]
        self._session = [label.removeprefix("ses-") for label in stated]
        self._recording = np.repeat(np.arange(len(parts)), [len(part.row) for part in parts])
        block = None
        if "block" in self._trials.column_names:
            block, _ = encoded(self._trials["block"])
        self._block, self._order = blocks_and_order(self._subject[self._recording], self._recording, block)
        self._onset = np.concatenate([part.cuts.onset_s for part in parts])

    def _said(self, column: str, *, own: bool = True) -> list[str | None]:
        """What the table says of each recording in a column subject or session; else what the file says of itself."""
        found: list[str | None] = []
        for part in self._parts:
            said = None
            if column in part.table:
                values = pc.unique(pc.take(part.table.text(column), pa.array(part.row))).to_pylist()
                if len(values) > 1:
                    raise UserError(
                        f"{part.table.where}: recording {part.file.name} has rows of {column} {values[0]!r} and "
                        f"{values[1]!r}; a recording is of one {column}."
                    )
                said = values[0]
            found.append(said or (part.own_subject if own else None))
        return found

    def metadata(self) -> DatasetMetadata:
        first, options = self._parts[0], self._options
        kinds = [first.selection.kinds[place] for place in self._positions[0]]
        units = sorted({STORED_UNITS[kind][1] for kind in kinds})
        files = {name: path for part in self._parts for name, path in part.paths.items()}
        return DatasetMetadata(
            name=self._name,
            n_channels=len(self._positions[0]),
            n_samples=Window.of(options, self._sfreq).num_samples,
            sfreq=self._sfreq,
            channel_names=tuple(first.selection.names[place].strip() for place in self._positions[0]),
            band_hz=options.band_hz,
            classes=self._stimuli.classes,
            split_rule=self._division.rule,
            preprocessing={**options.steps(), "unit": units[0] if len(units) == 1 else units},
            provenance={
                "source": self.NAME,
                LABELS_KEY: self._labels,
                "recordings": {
                    part.file.name: {**part.facts, "left_out": part.selection.left_out, "dropped": part.cuts.dropped}
                    for part in self._parts
                },
                "files": file_records({**files, **{path.name: path for path in self._tables}}),
            },
        )

    def stimuli(self) -> Iterator[StimulusRecord]:
        return self._stimuli.records()

    def segments(self, split: str | None = None) -> Iterator[SegmentRecord]:
        start = 0
        for number, part in enumerate(self._parts):
            rows = range(start, start + len(part.row))
            start += len(part.row)
            wanted = self._kept[rows.start : rows.stop]
            if split is not None:
                wanted = wanted & (self._division.splits[rows.start : rows.stop] == split)
            if not wanted.any():
                continue
            chosen = dataclasses.replace(part, cuts=_only(part.cuts, wanted))
            places = list(self._positions[number])
            for row, eeg in zip(np.flatnonzero(wanted) + rows.start, self._eeg(chosen), strict=True):
                yield SegmentRecord(
                    eeg=eeg[places],
                    stimulus=self._stimuli.keys[self._stimuli.number[row]],
                    label=int(self._stimuli.label[row]),
                    subject=int(self._subject[number]),
                    split=str(self._division.splits[row]),
                    block=int(self._block[row]),
                    order=int(self._order[row]),
                    session=self._session[number],
                    recording=part.file.name,
                    onset_s=float(self._onset[row]),
                )

    def _eeg(self, part: Part) -> Iterator[np.ndarray]:
        """The segments of a recording. What MNE warns of while it filters becomes a note."""
        file, options = part.file, self._options
        opened, _ = open_selected(file, options, [])  # its notes were said when the segments were planned
        notes = NoteTaker(file.name, self.notes)
        try:
            if opened.is_epochs:
                yield from cut_epochs(opened.data, part.selection, part.cuts, options, file.path, notes)
            else:
                yield from cut_raw(opened.data, part.selection, part.pieces, part.cuts, options, notes)
        except (OSError, ValueError, RuntimeError) as error:
            raise unreadable(file.path, error) from None

    def num_segments(self) -> int:
        return int(self._kept.sum())


def _trials_of(parts: Sequence[Part]) -> pa.Table:
    """What was shown in each segment of all recordings, in their order."""
    tables = []
    for part in parts:
        names = [name for name in ("image", "class", "caption", "split", "block") if name in part.table]
        tables.append(pc.take(part.table.columns.select(names), pa.array(part.row)))
    shared = [name for name in tables[0].column_names if all(name in table.column_names for table in tables)]
    return pa.concat_tables([table.select(shared) for table in tables])


def _only(cuts: Cuts, wanted: np.ndarray) -> Cuts:
    return Cuts(
        place=cuts.place[wanted],
        piece=cuts.piece[wanted],
        event=cuts.event[wanted],
        onset_s=cuts.onset_s[wanted],
        dropped=cuts.dropped,
    )
