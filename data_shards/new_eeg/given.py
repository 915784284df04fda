# pyright: basic
"""EEG as it is given: an array with what is known of it, MNE epochs, or a file of either."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.reading import content_of
from neuroimagen.data_shards.format.npz import open_npz
from neuroimagen.data_shards.sources.readers.npy import load_npy

FILES = ".npy, .npz (eeg, and sfreq, channel_names, unit, tmin, subject) or MNE epochs (.fif)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class GivenEEG:
    """Segments [n, C, T] and what is known of them; None: not said."""

    eeg: np.ndarray
    sfreq: float | None = None
    channel_names: tuple[str, ...] | None = None
    unit: str | None = None
    tmin: float | None = None
    """Time of the first sample in seconds after the stimulus's onset."""
    baseline_s: tuple[float, float] | None = None
    """The interval whose mean was subtracted already."""
    passband_hz: tuple[float, float] | None = None
    """What filters have left, as MNE notes it."""
    bads: tuple[str, ...] = ()
    waiting_projectors: tuple[str, ...] = ()
    subject: int | str | Sequence[int | str] | None = None
    """Whose EEG it is, where a file says it."""
    where: str = "the EEG"


def given_eeg(eeg: Any, **known: Any) -> GivenEEG:
    """An array, or mne.Epochs, with what is said of it. What epochs say of themselves must not be said again.

    Raises UserError for anything else.
    """
    known = {name: value for name, value in known.items() if value is not None}
    if isinstance(eeg, GivenEEG):
        if twice := [name for name in known if getattr(eeg, name) is not None]:
            raise UserError(f"{eeg.where} says {twice[0]} itself. Leave it out.")
        return _checked(dataclasses.replace(eeg, **_tidy(known)))
    if type(eeg).__module__.split(".")[0] == "mne":
        return given_eeg(of_epochs(eeg), **known)
    return _checked(GivenEEG(eeg=np.asarray(eeg), **_tidy(known)))


def of_epochs(epochs: Any, *, where: str = "the epochs") -> GivenEEG:
    """MNE epochs: samples in SI units, names, rate, and what was done to them so far."""
    import mne

    if not isinstance(epochs, mne.BaseEpochs):
        raise UserError(
            f"EEG is given as {type(epochs).__name__}; expected an array [segments, channels, samples], or mne.Epochs. "
            "Cut a recording into epochs first: mne.Epochs(raw, events, tmin=…, tmax=…, baseline=None, preload=True)."
        )
    info = epochs.info
    kinds = set(epochs.get_channel_types()) - {"stim"}
    unit = {frozenset(["mag"]): "T", frozenset(["grad"]): "T/m"}.get(frozenset(kinds), "V")
    return GivenEEG(
        eeg=epochs.get_data(copy=True),
        sfreq=float(info["sfreq"]),
        channel_names=tuple(epochs.ch_names),
        unit=unit,
        tmin=float(epochs.times[0]),
        baseline_s=None if epochs.baseline is None else (float(epochs.baseline[0]), float(epochs.baseline[1])),
        passband_hz=(float(info["highpass"]), float(info["lowpass"])),
        bads=tuple(info["bads"]),
        waiting_projectors=tuple(str(each["desc"]) for each in info["projs"] if not each["active"]),
        where=where,
    )


def read_eeg(path: Path) -> GivenEEG:
    """The EEG in a file: .npy, .npz or MNE epochs. Raises UserError naming what can be read."""
    if not path.is_file():
        raise UserError(f"there is no file {path}.")
    name = path.name.lower()
    if name.endswith(".npy"):
        eeg = load_npy(path)
        if not isinstance(eeg, np.ndarray):
            raise UserError(f"{path} holds a {type(eeg).__name__}; expected an array [segments, channels, samples].")
        return _checked(GivenEEG(eeg=eeg, where=str(path)))
    if name.endswith(".npz"):
        return _read_npz(path)
    if name.endswith((".fif", ".fif.gz")):
        import mne

        try:
            return of_epochs(mne.read_epochs(path, proj=False, verbose="ERROR"), where=str(path))
        except Exception as error:  # readers of damaged files raise whatever the damage leads to
            reason = (str(error).splitlines() or [""])[0]
            raise UserError(f"{path} holds no epochs that MNE reads: {type(error).__name__}: {reason}") from None
    raise UserError(f"{path} is none of the files that are read: {FILES}.")


def _read_npz(path: Path) -> GivenEEG:
    names = ("eeg", "sfreq", "channel_names", "unit", "tmin", "subject")
    with content_of(f"read {path}", remedy="It must be an .npz of plain arrays."), open_npz(path) as content:
        found = {name: content[name] for name in content.files}
    if unknown := sorted(set(found) - set(names)):
        raise UserError(f"{path} holds {unknown[0]!r}; it may hold {', '.join(names)}.")
    if "eeg" not in found:
        raise UserError(f"{path} holds no array 'eeg' [segments, channels, samples]; it has {', '.join(found)}.")
    eeg = found.pop("eeg")
    known = {name: value.tolist() for name, value in found.items()}
    with content_of(f"use what {path} says beside 'eeg'", remedy="Write the file again."):
        return _checked(GivenEEG(eeg=eeg, where=str(path), **_tidy(known)))


def _tidy(known: dict[str, Any]) -> dict[str, Any]:
    if "channel_names" in known:
        known["channel_names"] = tuple(str(name) for name in known["channel_names"])
    for name in ("sfreq", "tmin"):
        if name in known:
            known[name] = float(known[name])
    return known


def _checked(given: GivenEEG) -> GivenEEG:
    eeg = given.eeg
    if eeg.ndim != 3 or eeg.dtype.kind not in "fiu":
        raise UserError(
            f"{given.where} is {eeg.dtype} of shape {eeg.shape}; expected numbers [segments, channels, samples]."
        )
    if given.channel_names is not None and len(given.channel_names) != eeg.shape[1]:
        raise UserError(f"{given.where} has {eeg.shape[1]} channels, and {len(given.channel_names)} names are given.")
    return given
