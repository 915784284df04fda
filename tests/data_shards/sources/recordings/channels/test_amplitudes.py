"""Amplitudes that no EEG has are refused with the unit to state, odd ones are noted with numbers."""

import numpy as np
import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.recordings.channels.amplitudes import check_amplitudes
from neuroimagen.data_shards.sources.recordings.channels.selection import Selection

NAMES = ("Fz", "Cz", "Pz", "Oz")


def notes_of(eeg: np.ndarray, kinds: tuple[str, ...] = ("eeg",) * 4) -> list[str]:
    selection = Selection(names=NAMES, kinds=kinds, factors=(1e6,) * 4, left_out={}, bads=())
    notes: list[str] = []
    check_amplitudes(eeg, selection, "a.edf", "a.edf", notes)
    return notes


def segments(microvolt: float) -> np.ndarray:
    return microvolt * np.random.default_rng(0).standard_normal((8, 4, 200))


def test_eeg_of_usual_size_is_not_mentioned() -> None:
    for microvolt in (1.0, 10.0, 200.0):
        assert notes_of(segments(microvolt)) == []


@pytest.mark.parametrize(("factor", "unit"), [(1e6, "uV"), (1e3, "mV"), (1e-6, "V")])
def test_a_wrong_unit_is_refused_and_the_right_one_named(factor: float, unit: str) -> None:
    with pytest.raises(UserError, match=rf"which no EEG has.*--unit {unit}\b"):
        notes_of(segments(20.0 * factor))


def test_seldom_amplitudes_are_noted() -> None:
    (note,) = notes_of(segments(2000.0))
    assert "seldom" in note
    (note,) = notes_of(segments(0.01))
    assert "seldom" in note


def test_flat_and_odd_channels_are_named() -> None:
    eeg = segments(20.0)
    eeg[:, 1] = 7.0
    (note,) = notes_of(eeg)
    assert "1 of 4 channels never vary" in note
    assert "Cz" in note
    eeg = segments(20.0)
    eeg[:, 3] *= 1000
    (note,) = notes_of(eeg)
    assert note.startswith("a.edf: 1 channels have another amplitude than the rest")
    assert "Oz" in note


def test_magnetic_fields_have_no_amplitude_of_eeg() -> None:
    assert notes_of(segments(1e5), kinds=("mag",) * 4) == []
