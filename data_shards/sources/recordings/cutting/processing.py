"""Reads, filters and cuts one recording at a time; what is held does not grow with the recording.

Filters and resampling change each channel by itself, so a piece that is larger than memory should hold is processed in
groups of channels, through a scratch file. Reference, interpolation and projectors change each moment by itself, so
they are applied to the segments that were cut.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.recordings.channels.selection import Selection
from neuroimagen.data_shards.sources.recordings.cutting.scratch import Scratch
from neuroimagen.data_shards.sources.recordings.cutting.windows import Cuts, Window
from neuroimagen.data_shards.sources.recordings.files.pieces import Piece
from neuroimagen.data_shards.sources.recordings.mne_notes import NoteTaker
from neuroimagen.data_shards.sources.recordings.options import CutOptions

HELD_BYTES = 256 << 20
"""What is held of a piece while it is filtered, copies included: all of it, or a group of channels, at least one."""
_BATCH = 32


def cut_raw(
    raw: Any, selection: Selection, pieces: Sequence[Piece], cuts: Cuts, options: CutOptions, notes: NoteTaker
) -> Iterator[np.ndarray]:
    """The segments of a raw recording: float32 [C, T] in the stored unit, in the order of `cuts`."""
    import mne

    sfreq = float(options.resample or raw.info["sfreq"])
    window = Window.of(options, sfreq)
    names = _names_read(raw, selection, options)
    with notes.noted():
        info = mne.pick_info(raw.info, [raw.ch_names.index(name) for name in names])
    with info._unlock():
        info["sfreq"] = sfreq
        info["lowpass"] = min(info["lowpass"], sfreq / 2)
    for number, piece in enumerate(pieces):
        events = cuts.event[cuts.piece == number]
        if not len(events):
            continue
        with tempfile.TemporaryDirectory(prefix="neuroimagen-") as scratch:
            with notes.noted():
                stretch = _Stretch(raw, names, piece, options, Path(scratch))
            for start in range(0, len(events), _BATCH):
                part = events[start : start + _BATCH]
                eeg = np.stack([stretch.read(at + window.begin, at + window.end) for at in part.tolist()])
                yield from finished(eeg, info, selection, window, options)


def cut_epochs(
    epochs: Any, selection: Selection, cuts: Cuts, options: CutOptions, path: Path, notes: NoteTaker
) -> Iterator[np.ndarray]:
    """The segments of an epochs file: float32 [C, T] in the stored unit, in the order of `cuts`."""
    import mne

    names = _names_read(epochs, selection, options)
    for start in range(0, len(cuts.event), _BATCH):
        with notes.noted():
            part = epochs[cuts.event[start : start + _BATCH]].load_data()
            if options.resample is not None:
                part.resample(options.resample)
        window, zero = epochs_window(part, options, path)
        eeg = part.get_data(picks=names)[:, :, zero + window.begin : zero + window.end]
        info = mne.pick_info(part.info, [part.ch_names.index(name) for name in names])
        yield from finished(eeg, info, selection, window, options)


def epochs_window(epochs: Any, options: CutOptions, path: Path) -> tuple[Window, int]:
    """The window, and the position of time 0 in an epoch. Raises UserError if the window is not inside."""
    sfreq = float(epochs.info["sfreq"])
    window, zero = Window.of(options, sfreq), -round(epochs.tmin * sfreq)
    if zero + window.begin < 0 or zero + window.end > len(epochs.times):
        # The last sample of epochs is at tmax; a window ends before its tmax.
        end = epochs.tmax + 1 / sfreq
        raise UserError(
            f"{path} holds epochs from {epochs.tmin:g} to {end:g} s; the window {options.tmin:g} to "
            f"{options.tmax:g} s{' with its baseline' if options.baseline else ''} is not inside. Choose --tmin, "
            "--tmax "
            "and --baseline within the epochs."
        )
    return window, zero


def finished(
    eeg: np.ndarray, info: Any, selection: Selection, window: Window, options: CutOptions
) -> Iterator[np.ndarray]:
    """float64 [n, C, samples from window.begin] in SI units → float32 [C, T] each, referenced, baseline subtracted."""
    names = list(info["ch_names"])
    if options.reference or options.interpolate_bads or options.apply_projectors:
        import mne

        with mne.utils.use_log_level("ERROR"):  # the same for each batch; what is wrong was said when it was opened
            epochs = mne.EpochsArray(eeg, info, proj=False, baseline=None)
            if options.apply_projectors:
                epochs.apply_proj()
            if options.interpolate_bads:
                epochs.interpolate_bads(reset_bads=True)
            if options.reference:
                channels = "average" if options.reference == ("average",) else list(options.reference)
                epochs.set_eeg_reference(channels, projection=False)
            eeg = epochs.get_data(copy=False)
    places = [names.index(name) for name in selection.names]
    eeg = eeg[:, places] * np.array(selection.factors)[:, None]
    if window.base_last > window.base_first:
        base = eeg[:, :, window.base_first - window.begin : window.base_last - window.begin]
        eeg = eeg - base.mean(axis=-1, keepdims=True)
    first = window.first - window.begin
    yield from eeg[:, :, first : first + window.num_samples].astype(np.float32)


def _names_read(data: Any, selection: Selection, options: CutOptions) -> list[str]:
    """The stored channels, and those that the reference or a projector needs beside them."""
    wanted = set(selection.names)
    if options.reference and options.reference != ("average",):
        if missing := [name for name in options.reference if name not in data.ch_names]:
            raise UserError(
                f"--reference: a recording has no channel {missing[0]!r}; it has {', '.join(data.ch_names)}."
            )
        wanted |= set(options.reference)
    if options.apply_projectors:
        wanted |= {name for projector in data.info["projs"] for name in projector["data"]["col_names"]}
    return [name for name in data.ch_names if name in wanted]


class _Stretch:
    """One piece of a recording, filtered and resampled as asked, from which segments are read."""

    def __init__(self, raw: Any, names: list[str], piece: Piece, options: CutOptions, scratch: Path) -> None:
        self._raw, self._names, self._piece = raw, names, piece
        self._held: np.ndarray | None = None
        self._scratch: Scratch | None = None
        num_samples = piece.stop - piece.start
        bytes_of_channel = 8 * num_samples
        if 4 * len(names) * bytes_of_channel <= HELD_BYTES:  # filters take some copies
            data = raw.get_data(picks=names, start=piece.start, stop=piece.stop)
            self._held = _filtered(data, names, raw, options) if options.is_filtered else data
        elif options.is_filtered:
            self._scratch = self._through_scratch(options, scratch / "piece", num_samples)

    def read(self, start: int, stop: int) -> np.ndarray:
        """float64 [C, stop − start] in SI units."""
        if self._held is not None:
            return self._held[:, start:stop]
        if self._scratch is not None:
            return self._scratch.read(slice(None), start, stop)
        first = self._piece.start
        return self._raw.get_data(picks=self._names, start=first + start, stop=first + stop)

    def _through_scratch(self, options: CutOptions, path: Path, num_samples: int) -> Scratch:
        """The piece in a file, which is written once along time and once along channels."""
        raw, names, piece = self._raw, self._names, self._piece
        longest = max(num_samples, round(num_samples * (options.resample or 0.0) / float(raw.info["sfreq"])))
        scratch = Scratch(path, len(names), longest)
        chunk = max(1, HELD_BYTES // (4 * 8 * len(names)))
        for start in range(0, num_samples, chunk):
            stop = min(start + chunk, num_samples)
            values = raw.get_data(picks=names, start=piece.start + start, stop=piece.start + stop)
            scratch.write(slice(None), start, values)
        group = max(1, HELD_BYTES // (4 * 8 * num_samples))
        for start in range(0, len(names), group):
            part = slice(start, start + group)
            data = scratch.read(part, 0, num_samples)
            scratch.write(part, 0, _filtered(data, names[part], raw, options))
        return scratch


def _filtered(data: np.ndarray, names: list[str], raw: Any, options: CutOptions) -> np.ndarray:
    """float64 [C, samples] filtered and resampled by MNE."""
    import mne

    info = mne.pick_info(raw.info, [raw.ch_names.index(name) for name in names])
    with info._unlock():
        info["bads"] = []
    part = mne.io.RawArray(data, info, copy="auto", verbose="WARNING")
    if options.band_hz is not None:
        part.filter(*options.band_hz, picks="all", verbose="WARNING")
    if options.notch:
        part.notch_filter(np.array(options.notch), picks="all", verbose="WARNING")
    if options.resample is not None:
        part.resample(options.resample, verbose="WARNING")
    return part.get_data()
