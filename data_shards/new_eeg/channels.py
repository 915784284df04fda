# pyright: basic
"""Which of the given channels are the run's, and by what their numbers are multiplied to be in its unit."""

from collections.abc import Collection

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.new_eeg.description import InputDescription
from neuroimagen.data_shards.new_eeg.given import GivenEEG

UNITS = {
    "microvolt": {"V": 1e6, "mV": 1e3, "uV": 1.0, "nV": 1e-3},
    "femtotesla": {"T": 1e15, "fT": 1.0},
    "femtotesla per centimetre": {"T/m": 1e13, "fT/cm": 1.0},
}
"""Stored unit → unit of new EEG → factor between them."""


def places_of(given: GivenEEG, wanted: InputDescription, *, as_stored: bool, notes: list[str]) -> list[int]:
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
                f"{some_names(names)}. EEG that is as the data set's own segments needs no names: preprocessed=True, "
                "or --preprocessed all."
            )
        if given.eeg.shape[1] != wanted.n_channels:
            raise UserError(
                f"{given.where} has {given.eeg.shape[1]} channels; the run's encoder was trained on "
                f"{wanted.n_channels}{'' if names is None else ': ' + some_names(names)}."
            )
        return list(range(wanted.n_channels))
    place_of: dict[str, int] = {}
    for place, name in enumerate(given.channel_names):
        if channel_key(name) in place_of:
            raise UserError(f"{given.where} has two channels {name!r}. Leave one out.")
        place_of[channel_key(name)] = place
    if missing := [name for name in names if channel_key(name) not in place_of]:
        raise UserError(
            f"{given.where} lacks {len(missing)} of the run's {len(names)} channels: {some_names(missing)}; it has "
            f"{some_names(given.channel_names)}. Rename them as the data set's, or interpolate them in the recording."
        )
    bads = {channel_key(name) for name in given.bads}
    if bad := [name for name in names if channel_key(name) in bads]:
        raise UserError(
            f"channels {some_names(bad)} are marked bad. Interpolate them (epochs.interpolate_bads()), or take the "
            "mark away if they are good."
        )
    wanted_keys = {channel_key(name) for name in names}
    if extra := [name for name in given.channel_names if channel_key(name) not in wanted_keys]:
        notes.append(f"{len(extra)} channels are not used: {some_names(extra)}")
    places = [place_of[channel_key(name)] for name in names]
    if places != sorted(places):
        notes.append("channels are put into the run's order")
    return places


def channel_key(name: str) -> str:
    return name.strip().casefold()


def some_names(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:12])
    return shown if len(names) <= 12 else f"{shown} … ({len(names)} in all)"


def unit_factor(given: GivenEEG, wanted: InputDescription, *, standardised: bool, as_stored: bool) -> float:
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
            f"say the unit of {given.where}, unit=… or --unit{units}. The run was trained on {wanted.unit}; EEG that "
            "is as the data set's own segments needs none: preprocessed=True, or --preprocessed all."
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
