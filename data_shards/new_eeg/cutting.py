# pyright: basic
"""Resamples and cuts given segments as the data set's were, with the same code."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.new_eeg.channels import channel_key
from neuroimagen.data_shards.new_eeg.description import InputDescription, Step
from neuroimagen.data_shards.new_eeg.given import GivenEEG
from neuroimagen.data_shards.sources.recordings.channels.selection import Selection
from neuroimagen.data_shards.sources.recordings.cutting.processing import finished
from neuroimagen.data_shards.sources.recordings.cutting.windows import Window
from neuroimagen.data_shards.sources.recordings.options import CutOptions

_BATCH = 64


def at_rate(given: GivenEEG, wanted: InputDescription, *, as_stored: bool) -> GivenEEG:
    """The EEG at the run's sampling rate."""
    if given.sfreq is None:
        if as_stored:
            return given
        raise UserError(
            f"say the sampling rate of {given.where}, sfreq=… or --sfreq. The run was trained on {wanted.sfreq:g} Hz; "
            "EEG that is as the data set's own segments needs none: preprocessed=True, or --preprocessed all."
        )
    if math.isclose(given.sfreq, wanted.sfreq, rel_tol=1e-6):
        return given
    found, epochs = f"{given.where} has {given.sfreq:g} Hz, the run was trained on {wanted.sfreq:g} Hz", wanted.epochs
    if epochs is None or as_stored:
        raise UserError(
            f"{found}, and segments are too short to be resampled exactly. Resample the recording before it is cut: "
            f"raw.resample({wanted.sfreq:g})."
        )
    extent = (epochs["sfreq"], epochs["first_sample_s"], epochs["num_samples"])
    if given.tmin is None or not _same_extent((given.sfreq, given.tmin, given.eeg.shape[2]), extent):
        raise UserError(
            f"{found}. Its epochs were resampled from {extent[2]} samples at {extent[0]:g} Hz that begin at "
            f"{extent[1]:g} s, and resampling depends on where epochs end. Give epochs of the same extent (tmin=…)."
        )
    import mne

    names = [str(number) for number in range(given.eeg.shape[1])]
    with mne.utils.use_log_level("ERROR"):
        info = mne.create_info(names, given.sfreq, "eeg")
        data = given.eeg.astype(np.float64)
        resampled = mne.EpochsArray(data, info, tmin=given.tmin, proj=False, baseline=None).resample(wanted.sfreq)
    return dataclasses.replace(
        given, eeg=resampled.get_data(copy=False), sfreq=wanted.sfreq, tmin=float(resampled.times[0])
    )


def _same_extent(first: tuple[float, float, int], second: tuple[float, float, int]) -> bool:
    near = all(math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-6) for one, other in zip(first, second, strict=True))
    return near and first[2] == second[2]


def cut(
    given: GivenEEG, wanted: InputDescription, to_do: list[Step], places: list[int], factor: float
) -> list[np.ndarray]:
    """The window of each segment, float32 [C, T] in the stored unit, referenced, baseline subtracted."""
    value = {step.name: step.value for step in to_do}
    sfreq, num_samples = wanted.sfreq, given.eeg.shape[2]
    onset_known = wanted.first_sample_s is not None
    first = round(wanted.first_sample_s * sfreq) if wanted.first_sample_s is not None else 0
    if given.tmin is None or not onset_known:
        # Nobody says where the onset is: the segments are the window, no more and no less.
        if num_samples != wanted.n_samples:
            say = "say when its first sample was, tmin=… or --tmin" if onset_known else "cut it to the same window"
            begins = f" that begin at {wanted.first_sample_s:g} s" if wanted.first_sample_s is not None else ""
            raise UserError(
                f"{given.where} has {num_samples} samples; the run's encoder was trained on {wanted.n_samples}"
                f"{begins}: {say}."
            )
        start = first
    else:
        start = round(given.tmin * sfreq)
    base = value.get("baseline")
    base_first, base_last = (round(base[0] * sfreq), round(base[1] * sfreq) + 1) if base else (first, first)
    window = Window(first, first + wanted.n_samples, base_first, base_last, sfreq)
    if window.begin < start or window.end > start + num_samples:
        needs = f"{window.begin / sfreq:g} to {window.end / sfreq:g} s"
        named = " with its baseline; one that is subtracted already is named in `preprocessed`" if base else ""
        end = start + num_samples
        raise UserError(
            f"{given.where} lasts from {start / sfreq:g} to {end / sfreq:g} s after the onset; the run "
            f"needs {needs}{named}. Cut it longer."
        )
    reference: tuple[str, ...] = tuple(value.get("reference") or ())
    names = (
        [str(place) for place in places] if given.channel_names is None else [given.channel_names[p] for p in places]
    )
    used, all_names = list(places), list(names)
    for name in reference if reference != ("average",) else ():
        keys = [channel_key(other) for other in given.channel_names or ()]
        if channel_key(name) not in keys:
            raise UserError(
                f"the data that the run was trained on are referenced to {', '.join(reference)}, and {given.where} has "
                f"no channel {name!r}. Reference the recording, and name it: preprocessed=('reference',)."
            )
        if keys.index(channel_key(name)) not in used:
            used.append(keys.index(channel_key(name)))
            all_names.append(name)
    if reference and reference != ("average",):
        own = {channel_key(name): name for name in all_names}
        reference = tuple(own[channel_key(name)] for name in reference)
    selection = Selection(
        names=tuple(names), kinds=("eeg",) * len(names), factors=(factor,) * len(names), left_out={}, bads=()
    )
    options = CutOptions(images=Path(), reference=reference)
    info = _info(all_names, sfreq) if reference else {"ch_names": all_names}
    found: list[np.ndarray] = []
    for batch in range(0, len(given.eeg), _BATCH):
        eeg = given.eeg[batch : batch + _BATCH][:, used, window.begin - start : window.end - start]
        found += finished(eeg.astype(np.float64), info, selection, window, options)
    return found


def _info(names: list[str], sfreq: float) -> Any:
    import mne

    return mne.create_info(names, sfreq, "eeg")
