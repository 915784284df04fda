"""Brings new EEG to what a run was trained on, by the steps that made its data set's segments; what cannot be done
exactly is refused.

The order of channels, the unit, the window, reference, baseline, detrending and standardisation can be had exactly from
segments. Filters cannot, nor resampling, unless the data set itself was cut from epochs of the same extent. Rounding is
the data set's: segments go through float16 as if they had been stored.
"""

import dataclasses
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from neuroimagen.data_shards.common.arrays import Floats
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.format.encoding import decode_eeg, encode_eeg
from neuroimagen.data_shards.new_eeg.description import IMPOSSIBLE, STEPS, InputDescription, Step
from neuroimagen.data_shards.new_eeg.given import GivenEEG
from neuroimagen.data_shards.sources.recordings.channels.selection import Selection
from neuroimagen.data_shards.sources.recordings.cutting.processing import finished
from neuroimagen.data_shards.sources.recordings.cutting.windows import Window
from neuroimagen.data_shards.sources.recordings.options import CutOptions
from neuroimagen.data_shards.writing.preprocessing import FittedPreprocessing, Preprocessing

UNITS = {
    "microvolt": {"V": 1e6, "mV": 1e3, "uV": 1.0, "nV": 1e-3},
    "femtotesla": {"T": 1e15, "fT": 1.0},
    "femtotesla per centimetre": {"T/m": 1e13, "fT/cm": 1.0},
}
"""Stored unit → unit of new EEG → factor between them."""
_BATCH = 64

Preprocessed = bool | Collection[str]
"""True: as the data set's segments; else the names of the steps (description.STEPS) that are done already."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertedEEG:
    """Segments as the run's networks take them, float32 [n, C, T], and what was changed on the way."""

    eeg: Floats
    notes: tuple[str, ...] = ()


def converted(given: GivenEEG, wanted: InputDescription, *, preprocessed: Preprocessed = False) -> ConvertedEEG:
    """The EEG as `wanted` describes it. Raises UserError saying what does not fit, and what to do."""
    done = _steps_done(wanted, preprocessed)
    to_do = [step for step in wanted.steps if step.name not in done]
    as_stored = preprocessed is True
    for step in to_do:
        if step.name in IMPOSSIBLE:
            raise UserError(_impossible(step, wanted))
    _check_epochs(given, wanted, as_stored=as_stored)
    notes: list[str] = []
    places = _places(given, wanted, as_stored=as_stored, notes=notes)
    factor = _factor(given, wanted, standardised="standardise" in done, as_stored=as_stored)
    given = _at_rate(given, wanted, as_stored=as_stored)
    cut = _cut(given, wanted, to_do, places, factor)
    fitted = _fitted(wanted, to_do)
    parts = np.empty((len(cut), wanted.n_channels, wanted.n_samples), dtype=np.float32)
    for number, segment in enumerate(cut):
        segment = fitted(segment)
        if not np.isfinite(segment).all():
            raise UserError(f"segment {number} of {given.where} holds NaN or infinity. Leave it out or correct it.")
        parts[number] = decode_eeg(*encode_eeg(segment.astype(np.float32)))
    return ConvertedEEG(eeg=parts, notes=tuple(notes))


def _steps_done(wanted: InputDescription, preprocessed: Preprocessed) -> set[str]:
    """Names of the steps that are done already. They are the first of the data set's steps, or all of them."""
    names = [step.name for step in wanted.steps]
    if isinstance(preprocessed, bool):
        return set(names) if preprocessed else set()
    if isinstance(preprocessed, str):
        preprocessed = (preprocessed,)
    if unknown := [name for name in preprocessed if name not in STEPS]:
        raise UserError(f"preprocessed: there is no step {unknown[0]!r}; there are {', '.join(STEPS)}.")
    if strange := [name for name in preprocessed if name not in names]:
        raise UserError(
            f"preprocessed names {strange[0]!r}, which was not done to the data that the run was trained on "
            f"({_words(wanted.steps)}). Give EEG without it."
        )
    first = names[: len(set(preprocessed))]
    if set(first) != set(preprocessed):
        raise UserError(
            f"preprocessed names {', '.join(preprocessed)}; the steps were done in the order {', '.join(names)}, so "
            f"{next(name for name in first if name not in preprocessed)} must be done before. Do it and name it too."
        )
    return set(preprocessed)


def _words(steps: tuple[Step, ...]) -> str:
    return "; ".join(f"{step.name}: {step.words}" for step in steps) or "nothing was done to them"


def _impossible(step: Step, wanted: InputDescription) -> str:
    names = [each.name for each in wanted.steps]
    before = names[: names.index(step.name) + 1]
    how = {
        "filter": "which needs the continuous recording. Filter it the same way before it is cut into segments",
        "projectors": "which are in the recording's file. Apply them (apply_proj)",
        "source": "which cannot be repeated here. Do the same",
    }[step.name]
    named = ", ".join(repr(name) for name in before)
    return (
        f"the data that the run was trained on were preprocessed ({step.name}: {step.words}), {how}, and say so: "
        f"preprocessed=({named},), or --preprocessed {' '.join(before)}. EEG that is as the data set's own segments: "
        "preprocessed=True, or --preprocessed all."
    )


def _check_epochs(given: GivenEEG, wanted: InputDescription, *, as_stored: bool) -> None:
    """Raise UserError where what MNE notes of epochs contradicts what was done to the data set."""
    if given.waiting_projectors:
        raise UserError(
            f"{given.where} carry projectors that are not applied ({', '.join(given.waiting_projectors)}). Apply them "
            "(epochs.apply_proj()) if the data set's were applied, else remove them (epochs.del_proj())."
        )
    names = {step.name for step in wanted.steps}
    if given.baseline_s is not None and "baseline" not in names and not as_stored:
        raise UserError(
            f"a baseline ({given.baseline_s[0]:g} to {given.baseline_s[1]:g} s) was subtracted from {given.where}, and "
            "none from the data that the run was trained on. Cut the epochs with baseline=None."
        )
    band = wanted.preprocessing.get("band_hz")
    if band and given.passband_hz is not None:
        low, high = given.passband_hz
        if not (math.isclose(low, band[0], rel_tol=1e-3, abs_tol=1e-3) and high <= band[1] * 1.001):
            raise UserError(
                f"{given.where} pass {low:g} to {high:g} Hz, as MNE notes, and the data that the run was trained on "
                f"{band[0]:g} to {band[1]:g} Hz. Filter the recording the same way: raw.filter({band[0]:g}, "
                f"{band[1]:g})."
            )


def _places(given: GivenEEG, wanted: InputDescription, *, as_stored: bool, notes: list[str]) -> list[int]:
    """Of each of the run's channels, its place in the given EEG."""
    names = wanted.channel_names
    if given.channel_names is None or names is None:
        if given.channel_names is not None:
            raise UserError(
                f"{given.where} names its channels, and the data that the run was trained on do not, so their order "
                "cannot be compared. Give an array in the order of that data, without channel_names."
            )
        if names is not None and not as_stored:
            raise UserError(
                f"say which channels {given.where} has: channel_names=[…], or --channel-names. The run takes "
                f"{_some(names)}. EEG that is as the data set's own segments needs no names: preprocessed=True, or "
                "--preprocessed all."
            )
        if given.eeg.shape[1] != wanted.n_channels:
            raise UserError(
                f"{given.where} has {given.eeg.shape[1]} channels; the run's encoder was trained on "
                f"{wanted.n_channels}{'' if names is None else ': ' + _some(names)}."
            )
        return list(range(wanted.n_channels))
    place_of: dict[str, int] = {}
    for place, name in enumerate(given.channel_names):
        if _key(name) in place_of:
            raise UserError(f"{given.where} has two channels {name!r}. Leave one out.")
        place_of[_key(name)] = place
    if missing := [name for name in names if _key(name) not in place_of]:
        raise UserError(
            f"{given.where} lacks {len(missing)} of the run's {len(names)} channels: {_some(missing)}; it has "
            f"{_some(given.channel_names)}. Rename them as the data set's, or interpolate them in the recording."
        )
    bads = {_key(name) for name in given.bads}
    if bad := [name for name in names if _key(name) in bads]:
        raise UserError(
            f"channels {_some(bad)} are marked bad. Interpolate them (epochs.interpolate_bads()), or take the mark "
            "away if they are good."
        )
    wanted_keys = {_key(name) for name in names}
    if extra := [name for name in given.channel_names if _key(name) not in wanted_keys]:
        notes.append(f"{len(extra)} channels are not used: {_some(extra)}")
    places = [place_of[_key(name)] for name in names]
    if places != sorted(places):
        notes.append("channels are put into the run's order")
    return places


def _key(name: str) -> str:
    return name.strip().casefold()


def _some(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:12])
    return shown if len(names) <= 12 else f"{shown} … ({len(names)} in all)"


def _factor(given: GivenEEG, wanted: InputDescription, *, standardised: bool, as_stored: bool) -> float:
    """From the given unit to the stored one."""
    unit = None if given.unit is None else given.unit.replace("µ", "u").replace("μ", "u")
    if standardised:
        if unit is not None:
            raise UserError(
                f"the EEG is said to be standardised, so its numbers have no unit, and {given.where} has unit {unit}. "
                "Give an array without `unit` (of epochs: epochs.get_data()), or leave standardising to the run."
            )
        return 1.0
    factors = UNITS.get(wanted.unit, {}) if isinstance(wanted.unit, str) else {}
    if unit is None:
        if wanted.unit is None or as_stored:
            return 1.0
        units = f": one of {', '.join(factors)}" if factors else ""
        raise UserError(
            f"say the unit of {given.where}, unit=… or --unit{units}. The run was trained on {wanted.unit}; EEG that is "
            "as the data set's own segments needs none: preprocessed=True, or --preprocessed all."
        )
    if wanted.unit is None:
        raise UserError(
            f"the data that the run was trained on do not say their unit, so EEG in {unit} cannot be converted. Give "
            "an array in the unit of that data, without `unit` (of epochs: epochs.get_data())."
        )
    if unit not in factors:
        which = f"units that can be are {', '.join(factors)}" if factors else "that unit cannot be converted to"
        raise UserError(f"EEG in {given.unit} is not brought to {wanted.unit}, which the run takes: {which}.")
    return factors[unit]


def _at_rate(given: GivenEEG, wanted: InputDescription, *, as_stored: bool) -> GivenEEG:
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


def _cut(
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
        raise UserError(
            f"{given.where} lasts from {start / sfreq:g} to {(start + num_samples) / sfreq:g} s after the onset; the run "
            f"needs {needs}{named}. Cut it longer."
        )
    reference = tuple(value.get("reference") or ())
    names = (
        [str(place) for place in places] if given.channel_names is None else [given.channel_names[p] for p in places]
    )
    used, all_names = list(places), list(names)
    for name in reference if reference != ("average",) else ():
        keys = [_key(other) for other in given.channel_names or ()]
        if _key(name) not in keys:
            raise UserError(
                f"the data that the run was trained on are referenced to {', '.join(reference)}, and {given.where} has "
                f"no channel {name!r}. Reference the recording, and name it: preprocessed=('reference',)."
            )
        if keys.index(_key(name)) not in used:
            used.append(keys.index(_key(name)))
            all_names.append(name)
    if reference and reference != ("average",):
        own = {_key(name): name for name in all_names}
        reference = tuple(own[_key(name)] for name in reference)
    selection = Selection(
        names=tuple(names), kinds=("eeg",) * len(names), factors=(factor,) * len(names), left_out={}, bads=()
    )
    options = CutOptions(images=Path(), reference=reference)
    info = _info(all_names, sfreq) if reference else {"ch_names": all_names}
    cut: list[np.ndarray] = []
    for batch in range(0, len(given.eeg), _BATCH):
        eeg = given.eeg[batch : batch + _BATCH][:, used, window.begin - start : window.end - start]
        cut += finished(eeg.astype(np.float64), info, selection, window, options)
    return cut


def _info(names: list[str], sfreq: float) -> Any:
    import mne

    return mne.create_info(names, sfreq, "eeg")


def _fitted(wanted: InputDescription, to_do: list[Step]) -> FittedPreprocessing:
    """Detrending, standardisation and clamp, as far as they are to be done."""
    names = {step.name for step in to_do}
    done = wanted.preprocessing
    standardise = "standardise" in names
    options = Preprocessing(
        detrend="detrend" in names, standardise=standardise, clamp=done["clamp"] if "clamp" in names else None
    )
    mean, std = (np.array(done[f"channel_{name}"], np.float32) if standardise else None for name in ("mean", "std"))
    return FittedPreprocessing(options, mean, std)
