"""Channels by name, units by factor; what does not fit is refused and says what to do."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.new_eeg.channels import places_of, unit_factor
from neuroimagen.data_shards.new_eeg.description import InputDescription
from neuroimagen.data_shards.new_eeg.given import GivenEEG, given_eeg


def _given(names: list[str] | None, num: int | None = None, **known: Any) -> GivenEEG:
    eeg = np.zeros((1, num or len(names or ()), 50))
    return dataclasses.replace(given_eeg(eeg, channel_names=names), **known)


def test_channels_are_found_by_name(wanted: InputDescription) -> None:
    notes: list[str] = []
    given = _given(["pz", "EOG", " CZ", "Fz"])
    assert places_of(given, wanted, as_stored=False, notes=notes) == [3, 2, 0]
    assert notes == ["1 channels are not used: EOG", "channels are put into the run's order"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (_given(["Fz", "Pz"]), r"lacks 1 of the run's 3 channels: Cz; it has Fz, Pz"),
        (_given(["Fz", "Cz", "Pz", "fz"]), "two channels 'fz'"),
        (_given(["Fz", "Cz", "Pz"], bads=("Cz",)), "channels Cz are marked bad"),
        (_given(None, 3), "say which channels the EEG has: channel_names"),
    ],
)
def test_channels_that_do_not_fit(wanted: InputDescription, given: GivenEEG, message: str) -> None:
    with pytest.raises(UserError, match=message):
        places_of(given, wanted, as_stored=False, notes=[])


def test_without_names_only_the_number_is_compared(wanted: InputDescription) -> None:
    assert places_of(_given(None, 3), wanted, as_stored=True, notes=[]) == [0, 1, 2]
    with pytest.raises(UserError, match=r"has 4 channels; the run's encoder was trained on 3: Fz, Cz, Pz"):
        places_of(_given(None, 4), wanted, as_stored=True, notes=[])
    nameless = dataclasses.replace(wanted, channel_names=None)
    assert places_of(_given(None, 3), nameless, as_stored=False, notes=[]) == [0, 1, 2]
    with pytest.raises(UserError, match="their order cannot be compared"):
        places_of(_given(["Fz", "Cz", "Pz"]), nameless, as_stored=False, notes=[])


@pytest.mark.parametrize(("unit", "factor"), [("V", 1e6), ("mV", 1e3), ("uV", 1.0), ("µV", 1.0), ("nV", 1e-3)])
def test_units(wanted: InputDescription, unit: str, factor: float) -> None:
    given = _given(["Fz"], unit=unit)
    assert unit_factor(given, wanted, standardised=False, as_stored=False) == factor


def test_units_that_do_not_fit(wanted: InputDescription) -> None:
    bare, volts = _given(["Fz"]), _given(["Fz"], unit="V")
    with pytest.raises(UserError, match=r"say the unit of the EEG.*one of V, mV, uV, nV"):
        unit_factor(bare, wanted, standardised=False, as_stored=False)
    assert unit_factor(bare, wanted, standardised=False, as_stored=True) == 1.0
    assert unit_factor(bare, wanted, standardised=True, as_stored=False) == 1.0
    with pytest.raises(UserError, match="EEG in T is not brought to microvolt"):
        unit_factor(_given(["Fz"], unit="T"), wanted, standardised=False, as_stored=False)
    silent = dataclasses.replace(wanted, unit=None)
    assert unit_factor(bare, silent, standardised=False, as_stored=False) == 1.0
    with pytest.raises(UserError, match="do not say their unit"):
        unit_factor(volts, silent, standardised=False, as_stored=False)
    with pytest.raises(UserError, match="cannot be converted to"):
        unit_factor(
            volts, dataclasses.replace(wanted, unit=("microvolt", "femtotesla")), standardised=False, as_stored=False
        )
    magnetometers = dataclasses.replace(wanted, unit="femtotesla")
    assert unit_factor(_given(["Fz"], unit="T"), magnetometers, standardised=False, as_stored=False) == 1e15
