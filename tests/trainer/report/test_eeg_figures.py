"""Butterfly plot and scalp maps of the average segment."""

import numpy as np
import pytest

from neuroimagen.trainer.report.eeg_figures import eeg_figures, eeg_unit


@pytest.mark.parametrize(
    ("names", "montage", "maps", "note"),
    [
        (("Cz", "Pz", "Oz", "Fz", "C3"), None, True, "global field power"),
        (("A1", "A2", "B3", "C4", "D5"), "biosemi128", True, "global field power"),
        (("eins", "zwei", "drei", "vier", "fünf"), None, False, "no standard montage holds all"),
        (None, None, False, "does not name its channels"),
    ],
)
def test_scalp_maps_need_known_positions(
    names: tuple[str, ...] | None, montage: str | None, maps: bool, note: str
) -> None:
    evoked = np.random.default_rng(0).normal(size=(5, 80)).cumsum(axis=1)
    figures = eeg_figures(evoked, channel_names=names, montage=montage, sfreq=200.0, start_ms=20.0, num_segments=12)
    assert (figures.scalp_maps is not None) == maps
    assert note in figures.note
    assert ("up to ±" in figures.note) == maps
    assert "<svg" in figures.butterfly


def test_the_unit_is_said_where_it_is_known() -> None:
    assert eeg_unit({"standardise": True, "unit": "microvolt"}) == "standard deviations"
    assert eeg_unit({"unit": "microvolt"}) == "µV"
    assert eeg_unit({}) == "data set's units"
