"""What one recording gives to the data set, planned from its header and a few of its samples."""

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neuroimagen.data_shards.common.errors import UsageError, UserError
from neuroimagen.data_shards.sources.recordings.channels.amplitudes import NUM_LOOKED_AT, check_amplitudes
from neuroimagen.data_shards.sources.recordings.channels.selection import Selection
from neuroimagen.data_shards.sources.recordings.cutting.processing import epochs_window
from neuroimagen.data_shards.sources.recordings.cutting.windows import Cuts, Window, plan_cuts, plan_epochs
from neuroimagen.data_shards.sources.recordings.events.trials import Joined
from neuroimagen.data_shards.sources.recordings.files.opening import Opened, RecordingFile, sidecar
from neuroimagen.data_shards.sources.recordings.files.pieces import Piece
from neuroimagen.data_shards.sources.recordings.mne_notes import unreadable
from neuroimagen.data_shards.sources.recordings.options import CutOptions
from neuroimagen.data_shards.sources.recordings.people import own_subject
from neuroimagen.data_shards.sources.recordings.tables.stimulus_table import StimulusTable


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """What one recording gives to the data set."""

    file: RecordingFile
    selection: Selection
    pieces: tuple[Piece, ...]
    cuts: Cuts
    table: StimulusTable
    """What was shown; `row` points into it."""
    row: np.ndarray
    """int64 [segments]."""
    own_subject: str | None
    facts: dict[str, Any]
    """What the file says of itself, for dataset.json."""
    paths: dict[str, Path]
    """The files of the recording that are hashed, by name."""


def plan_part(
    opened: Opened,
    selection: Selection,
    pieces: list[Piece],
    table: StimulusTable,
    joined: Joined,
    options: CutOptions,
    events: Collection[str],
    notes: list[str],
) -> Part:
    """Decide which segments of a recording are cut, and look at a few; what is dropped and looks odd goes to `notes`.

    `events`: keys of the events themselves. Raises UserError if none is left, or for an amplitude that no EEG has.
    """
    file = opened.file
    if opened.is_epochs:
        epochs_window(opened.data, options, file.path)
        cuts = plan_epochs(joined.sample, opened.data, options)
    else:
        cuts = plan_cuts(joined.sample, pieces, opened.data, options, events=events)
    if cuts.dropped:
        num_dropped = sum(cuts.dropped.values())
        why = "; ".join(f"{count}: {reason}" for reason, count in cuts.dropped.items())
        notes.append(f"{file.name}: {num_dropped} of {len(joined.sample)} segments dropped ({why})")
        if num_dropped == len(joined.sample):
            raise UserError(f"{file.path}: every segment was dropped ({why}).")
    _note_overlaps(cuts, Window.of(options, options.resample or opened.sfreq), file.name, notes)
    part = Part(
        file=file,
        selection=selection,
        pieces=tuple(pieces),
        cuts=cuts,
        table=table,
        row=joined.row[cuts.place],
        own_subject=own_subject(opened),
        facts=_facts(opened, pieces),
        paths=_paths(opened),
    )
    check_amplitudes(_some_segments(opened, part, options), selection, file.path, file.name, notes)
    return part


def _some_segments(opened: Opened, part: Part, options: CutOptions) -> np.ndarray:
    """A few segments of a recording, evenly spread, unfiltered: float [n, C, T] in stored units."""
    numbers = np.unique(np.linspace(0, len(part.cuts.event) - 1, NUM_LOOKED_AT).astype(int))
    plain = dataclasses.replace(
        options,
        band_hz=None,
        notch=(),
        resample=None,
        baseline=None,
        reference=(),
        interpolate_bads=False,
        apply_projectors=False,
    )
    names, factors = list(part.selection.names), np.array(part.selection.factors)[:, None]
    try:
        if opened.is_epochs:
            chosen = opened.data[part.cuts.event[numbers]].load_data()
            return chosen.get_data(picks=names) * factors
        window = Window.of(plain, opened.sfreq)
        ratio = opened.sfreq / (options.resample or opened.sfreq)
        found = []
        for number in numbers.tolist():
            piece = part.pieces[part.cuts.piece[number]]
            at = piece.start + round(part.cuts.event[number] * ratio) + window.first
            start = min(max(at, piece.start), max(piece.stop - window.num_samples, piece.start))
            stop = min(start + window.num_samples, piece.stop)
            found.append(opened.data.get_data(picks=names, start=start, stop=stop) * factors)
        return np.stack([eeg for eeg in found if eeg.shape == found[0].shape])
    except (OSError, ValueError, RuntimeError) as error:  # MNE reads samples after it has opened the file
        raise unreadable(opened.file.path, error) from None


def check_filters(opened: Opened, options: CutOptions) -> None:
    """Raise for filters that a recording cannot have."""
    where = opened.file.path
    if opened.is_epochs and (options.band_hz is not None or options.notch):
        raise UsageError(
            f"{where} holds epochs, which are too short to be filtered. Filter the raw recording, or leave out "
            "--band and "
            "--notch."
        )
    half = opened.sfreq / 2
    if options.band_hz is not None and options.band_hz[1] >= half:
        raise UserError(f"--band up to {options.band_hz[1]:g} Hz needs more than the {opened.sfreq:g} Hz of {where}.")
    if options.notch and max(options.notch) >= half:
        raise UserError(f"--notch {max(options.notch):g} Hz needs more than the {opened.sfreq:g} Hz of {where}.")


def _note_overlaps(cuts: Cuts, window: Window, name: str, notes: list[str]) -> None:
    """Segments that share samples must not stand in different splits; `data audit` looks for those."""
    apart = np.diff(np.sort(cuts.onset_s))
    overlapping = int((apart * (1 + 1e-9) < window.num_samples / window.sfreq).sum())
    if overlapping:
        notes.append(
            f"{name}: {overlapping} of {len(cuts.event)} segments share samples with the one after them; `data audit` "
            "says whether they stand in different splits"
        )


def _facts(opened: Opened, pieces: Sequence[Piece]) -> dict[str, Any]:
    """What a file says of itself, and was not changed."""
    info = opened.data.info
    facts: dict[str, Any] = {
        "sfreq": opened.sfreq,
        "highpass_hz": float(info["highpass"]),
        "lowpass_hz": float(info["lowpass"]),
        "is_referenced": bool(info["custom_ref_applied"]),
        "projectors": {str(each["desc"]): "active" if each["active"] else "not active" for each in info["projs"]},
        "num_pieces": len(pieces),
        "is_epochs": opened.is_epochs,
    }
    if opened.is_epochs:  # what resampling them depends on
        times = opened.data.times
        facts["epochs"] = {"first_sample_s": float(times[0]), "num_samples": len(times)}
    return facts


def _paths(opened: Opened) -> dict[str, Path]:
    """The recording's files by the names under which dataset.json has their hashes; those of a folder are not."""
    file = opened.file
    beside = [file.path, file.path.with_suffix(".vmrk"), file.path.with_suffix(".fdt")]
    if not opened.is_epochs:
        beside += [Path(name) for name in opened.data.filenames if name]
    beside += [path for suffix in ("channels", "electrodes", "events") if (path := sidecar(file, suffix)) is not None]
    folder = Path(file.name).parent
    return {(folder / path.name).as_posix(): path for path in beside if path.is_file()}
