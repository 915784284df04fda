# pyright: basic
"""Brings new EEG to what a run was trained on, by the steps that made its data set's segments; what cannot be done
exactly is refused.

The order of channels, the unit, the window, reference, baseline, detrending and standardisation can be had exactly from
segments. Filters cannot, nor resampling, unless the data set itself was cut from epochs of the same extent. Rounding is
the data set's: segments go through float16 as if they had been stored.
"""

import dataclasses
import math
from collections.abc import Collection

import numpy as np

from neuroimagen.data_shards.common.arrays import Floats
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.format.encoding import STORED_EXPONENT, decode_eeg, encode_eeg
from neuroimagen.data_shards.new_eeg.channels import places_of, unit_factor
from neuroimagen.data_shards.new_eeg.cutting import at_rate, cut
from neuroimagen.data_shards.new_eeg.description import IMPOSSIBLE, STEPS, InputDescription, Step
from neuroimagen.data_shards.new_eeg.given import GivenEEG
from neuroimagen.data_shards.writing.preprocessing import FittedPreprocessing, Preprocessing

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
    places = places_of(given, wanted, as_stored=as_stored, notes=notes)
    factor = unit_factor(given, wanted, standardised="standardise" in done, as_stored=as_stored)
    given = at_rate(given, wanted, as_stored=as_stored)
    segments = cut(given, wanted, to_do, places, factor)
    fitted = _fitted(wanted, to_do)
    parts = np.empty((len(segments), wanted.n_channels, wanted.n_samples), dtype=np.float32)
    for number, segment in enumerate(segments):
        segment = fitted(segment)
        if not np.isfinite(segment).all():
            raise UserError(f"segment {number} of {given.where} holds NaN or infinity. Leave it out or correct it.")
        parts[number] = rounded(segment)
    return ConvertedEEG(eeg=parts, notes=tuple(notes))


def rounded(segment: np.ndarray) -> np.ndarray:
    """A segment as it is read where it was stored, float32 [C, T]; one that was stored already does not change."""
    eeg = segment.astype(np.float32)
    stored, scale = encode_eeg(eeg)
    found = decode_eeg(stored, scale)
    largest = float(np.max(np.abs(eeg)))
    if largest > 0 and math.frexp(largest)[0] == 0.5 and not np.array_equal(found, eeg):
        # The largest value was just below this power of two before it was rounded, so the scale was half as large.
        scale = 2.0 ** (math.frexp(largest)[1] - 1 - STORED_EXPONENT)
        with np.errstate(over="ignore"):
            before = decode_eeg((eeg * np.float32(1 / scale)).astype("<f2"), scale)
        if np.array_equal(before, eeg):
            return eeg
    return found


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
