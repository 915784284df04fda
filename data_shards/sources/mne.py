"""Cuts recordings that MNE reads (FIF, BrainVision, EDF/BDF, EEGLAB …) into segments, by a table of what was shown.

    --events FILE   one row for each kind of event: columns event (the annotation's text or the trigger's number),
                    image, class; optional caption, split
    --trials FILE   one row for each occurrence: columns image, class; optional event, onset, sample, recording,
                    subject, session, run, task, block, caption, split

Recordings are read one at a time, filtered and resampled piece by piece between pauses, cut around their events, and
baseline-corrected; EEG is stored in µV.
"""

import argparse
import dataclasses
from collections.abc import Collection
from pathlib import Path

import numpy as np

from neuroimagen.data_shards.common.errors import UsageError
from neuroimagen.data_shards.sources.options import add_images, add_split, add_split_seed, options_from
from neuroimagen.data_shards.sources.recordings.events.reading import SOURCES, read_events
from neuroimagen.data_shards.sources.recordings.events.trials import (
    JOINS,
    OPTIONAL,
    Joined,
    join_trials,
    rows_of_recordings,
)
from neuroimagen.data_shards.sources.recordings.files.finding import find_recordings
from neuroimagen.data_shards.sources.recordings.files.opening import Opened
from neuroimagen.data_shards.sources.recordings.options import CutOptions, add_cut_options
from neuroimagen.data_shards.sources.recordings.source import RecordingsSource
from neuroimagen.data_shards.sources.recordings.tables.event_names import event_key
from neuroimagen.data_shards.sources.recordings.tables.stimulus_table import (
    StimulusTable,
    keys_of_trials,
    read_stimulus_table,
    rows_of_events,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MneOptions(CutOptions):
    """Which recordings are cut, and by which table."""

    recordings: tuple[Path, ...]
    """Files, or BIDS folders whose sub-*/…/*_eeg.* and *_meg.* files are taken."""
    events: Path | None = None
    """A row for each kind of event; either this or `trials`."""
    trials: Path | None = None
    """A row for each occurrence."""
    join: str | None = None
    """How trials are joined: onset, sample or order; None: by the first of these that the table allows."""
    trial_events: tuple[str, ...] = ()
    """Events that are trials, where they are joined by order."""
    events_from: str = "all"
    trigger_mask: int | None = None
    """Bits of the trigger lines that are looked at."""
    subject: tuple[str, ...] = ()
    """Who was recorded: one label for all recordings, or one for each."""
    session: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.events is None) == (self.trials is None):
            raise UsageError(
                "give either --events (a row for each kind of event) or --trials (one for each occurrence)."
            )
        if self.trials is None and (self.join is not None or self.trial_events):
            raise UsageError("--join and --trial-events belong to a table of trials; give it with --trials.")
        if self.trigger_mask is not None and self.trigger_mask <= 0:
            raise UsageError(f"--trigger-mask {self.trigger_mask} chooses no bit; it must be a positive whole number.")


def _bits(text: str) -> int:
    """The value of --trigger-mask: a whole number, decimal or hexadecimal."""
    try:
        return int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number, such as 255 or 0xFF") from None


class MneSource(RecordingsSource):
    """Recordings, cut by a table of events or of trials."""

    NAME = "mne"
    HELP = "recordings that MNE reads, with a table of events or trials"
    DESCRIPTION = (
        "Cut recordings into segments. --events names kinds of events: columns event (an annotation's text or a "
        "trigger's number), image, class; caption and split are optional. --trials has one row for each occurrence, "
        "joined by onset, by sample or by order. Without a split column the images are divided 80/10/10 %."
    )
    EXAMPLES = """
    neuroimagen data ingest mne --recordings s1.vhdr s2.vhdr --subject 1 2 --events events.csv --images images/ \\
      --band 1:40 --resample 250 --tmin 0 --tmax 0.8 --baseline=-0.2:0 --out data/mine
    neuroimagen data ingest mne --recordings s1.edf --trials trials.csv --images images/ --reference average \\
      --out data/mine
    """

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--recordings",
            type=Path,
            nargs="+",
            required=True,
            metavar="PATH",
            help="files that MNE reads, or BIDS folders",
        )
        parser.add_argument("--events", type=Path, metavar="FILE", help="CSV or TSV: event, image, class …")
        parser.add_argument("--trials", type=Path, metavar="FILE", help="CSV or TSV: a row for each occurrence")
        parser.add_argument("--join", choices=JOINS, help="how trials find their events (default: as the table allows)")
        parser.add_argument(
            "--trial-events", nargs="+", default=[], metavar="NAME", help="events that are trials, joined by order"
        )
        parser.add_argument(
            "--events-from", choices=SOURCES, default="all", help="where events are looked for (default: all)"
        )
        parser.add_argument(
            "--trigger-mask",
            type=_bits,
            metavar="BITS",
            help="bits of the trigger lines that are looked at: 255, 0xFF (default: all)",
        )
        parser.add_argument(
            "--subject", nargs="+", default=[], metavar="LABEL", help="who was recorded: one, or one for each recording"
        )
        parser.add_argument("--session", nargs="+", default=[], metavar="LABEL", help="in which session, likewise")
        add_images(parser)
        add_cut_options(parser)
        add_split(parser)
        add_split_seed(parser)

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> "MneSource":
        return cls(options_from(args, MneOptions))

    def __init__(self, options: MneOptions) -> None:
        self._mne_options = options
        files = find_recordings(options.recordings)
        path = options.events or options.trials
        assert path is not None
        notes: list[str] = []
        if options.events is not None:
            self._table = read_stimulus_table(path, ("event", "image", "class"), ("caption", "split"))
            self._row_of_event = rows_of_events(self._table)
            self._event_names: Collection[str] = self._row_of_event
        else:
            self._table = read_stimulus_table(path, ("image", "class"), OPTIONAL)
            keys = keys_of_trials(self._table)
            self._event_names = {event_key(name) for name in options.trial_events}
            self._event_names |= set() if keys is None else set(keys.tolist())
            self._rows_of_file = rows_of_recordings(self._table, files, notes)
            files = list(self._rows_of_file)
        super().__init__(
            options,
            files,
            name=path.stem,
            tables=(path,),
            subjects=options.subject,
            sessions=options.session,
        )
        self.notes = [*self._table.notes, *notes, *self.notes]
        if options.events is not None:
            self._note_unused_events()

    def events_named(self) -> Collection[str]:
        return self._event_names

    def occurrences(self, opened: Opened, notes: list[str]) -> tuple[StimulusTable, Joined]:
        options = self._mne_options
        if options.trials is not None:
            joined = join_trials(
                self._table,
                self._rows_of_file[opened.file],
                opened,
                notes,
                how=options.join,
                trial_events=options.trial_events,
                origin=options.events_from,
                mask=options.trigger_mask,
            )
            return self._table, joined
        events = read_events(opened, self._row_of_event, notes, origin=options.events_from, mask=options.trigger_mask)
        row = np.array([self._row_of_event[key] for key in events.key.tolist()], dtype=np.int64)
        return self._table, Joined(row=row, sample=events.sample)

    def _note_unused_events(self) -> None:
        used = {row for part in self._parts for row in np.unique(part.row).tolist()}
        names = self._table.text("event").to_pylist()
        if unseen := [name for row, name in enumerate(names) if row not in used]:
            shown = ", ".join(sorted(unseen)[:10]) + (" …" if len(unseen) > 10 else "")
            self.notes.append(f"{len(unseen)} of the table's {len(names)} events are in no segment: {shown}")
