"""Cuts recordings that MNE reads (FIF, BrainVision, EDF/BDF, EEGLAB …) into segments, by a table of events.

    <events>.csv   columns: event (the annotation's text or the trigger's number), image, class; optional caption, split

Each recording is filtered and resampled as a whole, cut around its events, and baseline-corrected; values are in µV.
All segments are held in memory (float32), and the raw data of one recording at a time.
"""

import argparse
import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from neuroimagen.data_shards.common.errors import UsageError, UserError
from neuroimagen.data_shards.format.schema import DatasetMetadata
from neuroimagen.data_shards.sources.arrays import ArraySource, LabelTable
from neuroimagen.data_shards.sources.options import add_images, add_split_seed, interval, options_from
from neuroimagen.data_shards.sources.readers.csv_table import read_csv_table

_BIDS_ENDINGS = (".vhdr", ".edf", ".bdf", ".set", ".fif")
_MICROVOLT = 1e6


@dataclasses.dataclass(frozen=True, kw_only=True)
class MneOptions:
    """How recordings are cut."""

    recordings: tuple[Path, ...]
    """Files, or BIDS folders whose sub-*/…/eeg/*_eeg.* files are taken."""
    events: Path
    images: Path
    tmin: float = 0.0
    """Start of a segment in seconds after its event."""
    tmax: float = 1.0
    """End of a segment (excluded) in seconds after its event."""
    band_hz: tuple[float, float] | None = None
    resample: float | None = None
    """Sampling rate to resample to, Hz."""
    baseline: tuple[float, float] | None = None
    """Interval whose mean is subtracted, seconds after the event; it may lie before tmin."""
    bad_channels: tuple[str, ...] = ()
    """Channels to leave out, beside those that the recording itself marks bad."""
    split_seed: int = 0

    def __post_init__(self) -> None:
        if not self.tmin < self.tmax:
            raise UsageError(f"--tmin {self.tmin} is not before --tmax {self.tmax}.")
        # MNE makes a band-stop filter where the low edge is above the high one.
        if self.band_hz is not None and not 0 <= self.band_hz[0] < self.band_hz[1]:
            raise UsageError(f"--band {self.band_hz[0]:g}:{self.band_hz[1]:g} must run from low to high, in Hz.")
        if self.baseline is not None and not self.baseline[0] <= self.baseline[1]:
            raise UsageError(f"--baseline {self.baseline[0]:g}:{self.baseline[1]:g} ends before it starts.")
        if self.resample is not None and not 0 < self.resample < math.inf:
            raise UsageError(
                f"--resample {self.resample:g} is not a sampling rate; it must be a positive number of Hz."
            )


class MneSource(ArraySource):
    """Recordings, cut into segments and held as one array."""

    HELP = "recordings that MNE reads, with a table of events"
    DESCRIPTION = (
        "Cut recordings into segments. The table has the columns event (an annotation's text or a trigger's number), "
        "image, class, and may have caption and split; without a split column the images are divided 80/10/10 %."
    )
    EXAMPLES = """
    neuroimagen data ingest mne --recordings my-bids/ --events events.csv --images images/ --band 1:40 \\
      --resample 250 --tmin 0 --tmax 0.8 --baseline=-0.2:0 --out data/mine
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
        parser.add_argument(
            "--events", type=Path, required=True, metavar="FILE", help="CSV or TSV: event, image, class …"
        )
        add_images(parser)
        parser.add_argument(
            "--tmin",
            type=float,
            default=MneOptions.tmin,
            metavar="S",
            help="start after the event, seconds (default: 0)",
        )
        parser.add_argument(
            "--tmax", type=float, default=MneOptions.tmax, metavar="S", help="end after the event, seconds (default: 1)"
        )
        parser.add_argument(
            "--band", dest="band_hz", type=interval, metavar="A:B", help="band-pass filter, Hz (default: none)"
        )
        parser.add_argument("--resample", type=float, metavar="HZ", help="new sampling rate (default: as recorded)")
        parser.add_argument(
            "--baseline", type=interval, metavar="A:B", help="subtract the mean of these seconds (default: none)"
        )
        parser.add_argument("--bad-channels", nargs="+", default=[], metavar="NAME", help="leave these out as well")
        add_split_seed(parser)

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> "MneSource":
        return cls(options_from(args, MneOptions))

    def __init__(self, options: MneOptions) -> None:
        self._options = options
        table = _read_events(options.events)
        recordings = _find_recordings(options.recordings)
        notes: list[str] = []
        seen: list[dict[str, str]] = []
        subjects: list[int] = []
        pieces: list[np.ndarray] = []
        channels: list[str] | None = None
        sfreq = 0.0
        for number, path in enumerate(recordings, start=1):
            try:
                eeg, events, names, rate, lost = _cut(path, options, set(table))
            except (OSError, ValueError, RuntimeError) as error:  # MNE reads samples after it has opened the file
                raise _unreadable(path, error) from None
            if lost:
                notes.append(
                    f"{path}: {lost} of {lost + len(events)} segments dropped: they run over the recording's ends, "
                    "lie in a stretch that is marked bad, or begin at the same sample"
                )
            if channels is not None and (names != channels or rate != sfreq):
                raise UserError(
                    f"{path} has {len(names)} channels at {rate:g} Hz, {recordings[0]} has {len(channels)} at "
                    f"{sfreq:g} Hz, or their channels differ in name or order. Leave channels out with --bad-channels, "
                    "resample with --resample."
                )
            channels, sfreq = names, rate
            pieces.append(eeg)
            seen.extend(table[event] for event in events)
            match = re.search(r"sub-0*(\d+)", str(path))
            subjects.extend([int(match[1]) if match else number] * len(events))
        if unseen := sorted(set(table) - {row["event"] for row in seen}):
            shown = ", ".join(unseen[:10]) + (" …" if len(unseen) > 10 else "")
            notes.append(f"{len(unseen)} of the table's {len(table)} events are in no segment: {shown}")
        has_split = all("split" in row for row in seen)
        labels = LabelTable(
            image=tuple(row["image"] for row in seen),
            class_name=tuple(row["class"] for row in seen),
            subject=tuple(map(str, subjects)),
            split=tuple(row["split"] for row in seen) if has_split else None,
            caption=tuple(row.get("caption") or None for row in seen),
            block=np.full(len(seen), -1),
            order=np.concatenate([np.arange(len(piece)) for piece in pieces]),
            session=("",) * len(seen),
            recording=("",) * len(seen),
            onset_s=np.full(len(seen), np.nan),
        )
        super().__init__(
            np.concatenate(pieces),
            labels,
            name=options.events.stem,
            images=options.images,
            sfreq=sfreq,
            channel_names=tuple(channels or ()),
            band_hz=options.band_hz,
            split_seed=options.split_seed,
            files=(options.events, *recordings),
            source="mne",
        )
        self.notes = [*notes, *self.notes]

    def metadata(self) -> DatasetMetadata:
        options = self._options
        steps = {
            "band_hz": options.band_hz,
            "resample_hz": options.resample,
            "window_s": [options.tmin, options.tmax],
            "baseline_s": options.baseline,
            "left_out_channels": list(options.bad_channels),
            "unit": "microvolt",
        }
        return dataclasses.replace(super().metadata(), preprocessing=steps)


def _cut(path: Path, options: MneOptions, wanted: set[str]) -> tuple[np.ndarray, list[str], list[str], float, int]:
    """Cut one recording.

    Returns float32 [segments, C, T] in µV, the event of each segment, the channels' names, the sampling rate in Hz, and
    how many segments were dropped.
    """
    import mne

    with mne.utils.use_log_level("ERROR"):
        raw = _open(path)
        known = set(raw.ch_names)
        if unknown := [name for name in options.bad_channels if name not in known]:
            raise UserError(f"{path} has no channel {unknown[0]!r} to leave out; it has {raw.ch_names}.")
        raw.info["bads"] = sorted({*raw.info["bads"], *options.bad_channels})
        events, names = _events(raw, wanted, path)
        picks = mne.pick_types(raw.info, eeg=True, exclude="bads")
        if len(picks) == 0:
            raise UserError(f"{path} has no EEG channels that are not marked bad.")
        raw.load_data()
        if options.band_hz is not None:
            if options.band_hz[1] >= raw.info["sfreq"] / 2:
                raise UserError(
                    f"--band up to {options.band_hz[1]:g} Hz needs more than the {raw.info['sfreq']:g} Hz of {path}."
                )
            raw.filter(*options.band_hz, picks=picks)
        if options.resample is not None:
            raw, events = raw.resample(options.resample, events=events)
        start = min(options.tmin, options.baseline[0]) if options.baseline else options.tmin
        epochs = mne.Epochs(
            raw,
            events,
            tmin=start,
            tmax=options.tmax,
            baseline=options.baseline,
            picks=picks,
            preload=True,
            reject_by_annotation=True,
            event_repeated="drop",
        )
        if len(epochs) == 0:
            raise UserError(f"{path}: every segment runs over the recording's ends or was marked bad.")
        rate = float(raw.info["sfreq"])
        n_samples = round((options.tmax - options.tmin) * rate)
        first = round((options.tmin - start) * rate)
        eeg = (epochs.get_data(copy=False) * _MICROVOLT).astype(np.float32)[:, :, first : first + n_samples]
        seen = [names[code] for code in epochs.events[:, 2].tolist()]
        return eeg, seen, epochs.ch_names, rate, len(events) - len(seen)


def _open(path: Path) -> Any:
    import mne

    try:
        return mne.io.read_raw(path)
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, IndexError, StopIteration) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(f"MNE cannot read {path}: {reason}")


def _events(raw: Any, wanted: set[str], path: Path) -> tuple[np.ndarray, dict[int, str]]:
    """Events that the table names, as MNE has them (int [events, 3]), and code → text.

    They are taken from the annotations, or from the trigger channel if no annotation is in the table.
    """
    import mne

    texts = sorted(set(map(str, raw.annotations.description)) & wanted)
    if texts:
        code_of = {text: code for code, text in enumerate(texts, start=1)}
        return mne.events_from_annotations(raw, event_id=code_of)[0], {code: text for text, code in code_of.items()}
    if len(mne.pick_types(raw.info, stim=True)):
        events = mne.find_events(raw, shortest_event=1)
        events = events[[str(code) in wanted for code in events[:, 2]]]
        if len(events):
            return events, {code: str(code) for code in np.unique(events[:, 2]).tolist()}
    found = sorted(set(map(str, raw.annotations.description)))[:10]
    raise UserError(f"{path} has none of the table's events; its annotations are {found}.")


def _find_recordings(given: tuple[Path, ...]) -> list[Path]:
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            inside = sorted(
                file
                for file in path.glob("sub-*/**/*_eeg.*")
                if file.suffix in _BIDS_ENDINGS and "derivatives" not in file.parts
            )
            if not inside:
                raise UserError(f"{path} holds no file sub-*/…/*_eeg.{{vhdr,edf,bdf,set,fif}}.")
            found.extend(inside)
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"there is no recording {path}.")
    resolved = [path.resolve() for path in found]
    if twice := [path for place, path in enumerate(found) if resolved[place] in resolved[:place]]:
        raise UserError(f"recording {twice[0]} is given twice; its segments would be in the data set twice.")
    return found


def _read_events(path: Path) -> dict[str, dict[str, str]]:
    rows = read_csv_table(path, ("event", "image", "class"), ("caption", "split")).rows
    if len({row["event"] for row in rows}) != len(rows):
        raise UserError(f"{path}: an event has two rows.")
    return {row["event"]: row for row in rows}
