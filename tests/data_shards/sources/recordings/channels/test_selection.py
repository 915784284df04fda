"""What is stored as EEG: types, labels, units, rates, bad channels, projectors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pytest
from recording_files import NAMES, annotate, export, make_raw, regular_events, write_brainvision, write_edf

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.mne import MneSource

Cut = Callable[..., MneSource]
EVENTS = regular_events(9)


def noise(size: float = 20.0, *, rate: int = 200, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(30 * rate) * size


def edf(path: Path, *signals: tuple[str, str, float]) -> Path:
    """An EDF file of (label, unit, size of the noise)."""
    return write_edf(path, [(label, unit, noise(size), 200) for label, unit, size in signals], EVENTS)


def names_of(source: MneSource) -> tuple[str, ...]:
    return source.metadata().channel_names or ()


def test_other_signals_of_an_edf_file_are_left_out_and_named(tmp_path: Path, cut: Cut) -> None:
    path = edf(
        tmp_path / "a.edf",
        ("Fp1", "uV", 20),
        ("EOG left", "uV", 200),
        ("EEG Oz", "uV", 20),
        ("ECG1", "uV", 300),
        ("GSR1", "nOhm", 100),
        ("Thermo", "degC", 1),
        ("EXG3", "uV", 100),
    )
    source = cut(path)
    assert names_of(source) == ("Fp1", "EEG Oz")
    note = next(note for note in source.notes if "channels left out" in note)
    for text in ("EOG left, EXG3 (eog, by its name)", "ECG1 (ecg, by its name)", "its unit 'degC' is no voltage"):
        assert text in note
    facts = source.metadata().provenance["recordings"]["a.edf"]
    assert set(facts["left_out"]) == {"EOG left", "ECG1", "GSR1", "Thermo", "EXG3"}
    kept = cut(path, channel_types=("EXG3=eeg", "Fp1=eog"))
    assert names_of(kept) == ("EEG Oz", "EXG3")
    assert names_of(cut(path, picks=("eeg oz", "FP1"))) == ("Fp1", "EEG Oz")
    with pytest.raises(UserError, match=r"--picks: a.edf has no channel 'Cz'; it has Fp1, EOG left"):
        cut(path, picks=("Cz",))
    with pytest.raises(UserError, match=r"--channel-types: a.edf has no channel 'Cz'"):
        cut(path, channel_types=("Cz=eeg",))


@pytest.mark.parametrize("unit", ["", ".V", "n/a", "V"])
def test_numbers_whose_unit_is_missing_or_wrong_are_refused_with_the_remedy(
    tmp_path: Path, cut: Cut, unit: str
) -> None:
    path = edf(tmp_path / "a.edf", ("Fz", unit, 20), ("Oz", unit, 20))
    with pytest.raises(UserError, match=r"standard deviation of .* µV within a segment, which no EEG has.*--unit uV"):
        cut(path)
    right = next(cut(path, unit="uV").segments())
    assert 15 < right.eeg.std() < 25


def test_a_unit_for_some_channels_of_a_file(tmp_path: Path, cut: Cut) -> None:
    path = edf(tmp_path / "a.edf", ("Fz", "uV", 20), ("Oz", "", 20), ("Pz", "mV", 0.02 * 500))
    eeg = next(cut(path, unit="uV").segments()).eeg
    assert eeg.std(axis=1) == pytest.approx([20, 20, 10], rel=0.2)


@pytest.mark.parametrize(("ending", "factor", "unit"), [("_raw.fif", 1e6, "uV"), (".set", 1e-6, "V")])
def test_values_written_in_another_unit_than_the_format_says(
    tmp_path: Path, cut: Cut, ending: str, factor: float, unit: str
) -> None:
    raw = annotate(make_raw(), EVENTS)
    expected = raw.get_data(start=400, stop=600) * 1e6
    raw._data *= factor
    path = export(raw, tmp_path / f"a{ending}")
    with pytest.raises(UserError, match=f"which no EEG has.*--unit {unit}"):
        cut(path)
    np.testing.assert_allclose(next(cut(path, unit=unit).segments()).eeg, expected, rtol=1e-4, atol=1e-3)


def test_unusual_amplitudes_are_noted(tmp_path: Path, cut: Cut) -> None:
    loud = cut(edf(tmp_path / "a.edf", ("Fz", "uV", 700), ("Oz", "uV", 700)))
    assert any("an amplitude that EEG seldom has" in note for note in loud.notes)
    odd = cut(edf(tmp_path / "b.edf", ("Fz", "uV", 5), ("Cz", "uV", 5), ("Oz", "uV", 5), ("A7", "uV", 900)))
    assert any("1 channels have another amplitude than the rest" in note and "A7 (" in note for note in odd.notes)
    raw = annotate(make_raw(), EVENTS)
    raw._data[2] = 0
    flat = cut(export(raw, tmp_path / "c_raw.fif"))
    assert any("1 of 4 channels never vary in the 8 segments looked at: Pz" in note for note in flat.notes)


def test_channels_of_other_rates_do_not_resample_the_eeg(tmp_path: Path, cut: Cut) -> None:
    signals = [
        ("Fz", "uV", noise(), 200),
        ("Oz", "uV", noise(seed=1), 200),
        ("ECG", "uV", noise(300, rate=1000), 1000),
        ("Pz", "uV", noise(rate=50), 50),
    ]
    source = cut(write_edf(tmp_path / "a.edf", signals, EVENTS))
    assert source.metadata().sfreq == 200
    assert names_of(source) == ("Fz", "Oz")
    assert any("Pz (sampled at 50 Hz, most others at 200 Hz)" in note for note in source.notes)
    np.testing.assert_allclose(next(source.segments()).eeg[0], noise()[400:600], atol=0.05)
    stated = cut(tmp_path / "a.edf", channel_types=("ECG=misc",), bad_channels=("ECG",))
    assert stated.metadata().sfreq == 200
    assert len(list(stated.segments())) == 9


def test_two_channels_of_one_name_are_said(tmp_path: Path, cut: Cut) -> None:
    source = cut(edf(tmp_path / "a.edf", ("Fz", "uV", 20), ("T8", "uV", 20), ("T8", "uV", 20)))
    assert names_of(source) == ("Fz", "T8-0", "T8-1")
    assert any("MNE says: Channel names are not unique" in note and "T8" in note for note in source.notes)


def test_types_of_the_file_itself(tmp_path: Path, cut: Cut) -> None:
    raw = annotate(make_raw(names=(*NAMES, "X1", "X2"), types=["eeg"] * 4 + ["eog", "misc"]), EVENTS)
    raw.info["bads"] = ["Cz"]
    path = export(raw, tmp_path / "a_raw.fif")
    source = cut(path, bad_channels=("Oz",))
    assert names_of(source) == ("Fz", "Pz")
    note = next(note for note in source.notes if "left out" in note)
    assert "Cz (marked bad); Oz (--bad-channels)" in note
    assert "X1 (eog, as the file says); X2 (misc, as the file says)" in note


def test_a_projector_of_the_file_is_not_applied(tmp_path: Path, cut: Cut) -> None:
    raw = annotate(make_raw(), EVENTS)
    raw._data += 4e-5
    raw.set_eeg_reference("average", projection=True, verbose="ERROR")
    path = export(raw, tmp_path / "a_raw.fif")
    source = cut(path)
    expected = raw.get_data(start=400, stop=600) * 1e6
    np.testing.assert_allclose(next(source.segments()).eeg, expected, rtol=1e-5)
    assert any("1 projectors that the file carries are not applied (Average EEG reference)" in n for n in source.notes)
    metadata = source.metadata()
    assert metadata.preprocessing["projectors"] == "not applied"
    assert metadata.provenance["recordings"]["a_raw.fif"]["projectors"] == {"Average EEG reference": "not active"}
    applied = next(cut(path, apply_projectors=True).segments()).eeg
    np.testing.assert_allclose(applied, expected - expected.mean(axis=0), atol=1e-3)


def test_brainvision_units_are_those_of_the_header(tmp_path: Path, cut: Cut) -> None:
    marks = [("Stimulus", f"S  {1 + number % 3}", 401 + 600 * number) for number in range(9)]
    path = write_brainvision(tmp_path / "a.vhdr", np.stack([noise(), noise(seed=1)]), ("Fz", "Temp"), marks)
    text = path.read_text(encoding="utf-8").replace("Ch2=Temp,,1,µV", "Ch2=Temp,,1,C")
    path.write_text(text, encoding="utf-8")
    source = cut(path, events=tuple(f"Stimulus/S  {code}" for code in (1, 2, 3)))
    assert names_of(source) == ("Fz",)
    np.testing.assert_allclose(next(source.segments()).eeg[0], noise()[400:600], rtol=1e-5)


def test_meg_is_stored_in_its_own_units(tmp_path: Path, cut: Cut) -> None:
    raw = make_raw(names=("MEG1", "MEG2", "Fz"), types=("mag", "grad", "eeg"))
    raw._data[0] *= 1e-8
    raw._data[1] *= 1e-6
    path = export(annotate(raw, EVENTS), tmp_path / "a_raw.fif")
    source = cut(path, picks=("meg",))
    assert names_of(source) == ("MEG1", "MEG2")
    assert source.metadata().preprocessing["unit"] == ["femtotesla", "femtotesla per centimetre"]
    expected = raw.get_data(picks=["MEG1", "MEG2"], start=400, stop=600) * np.array([[1e15], [1e13]])
    np.testing.assert_allclose(next(source.segments()).eeg, expected, rtol=1e-4, atol=1e-3)
    assert names_of(cut(path, picks=("mag", "eeg"))) == ("MEG1", "Fz")
    with pytest.raises(UserError, match="has no MAG channels"):
        cut(export(annotate(make_raw(), EVENTS), tmp_path / "b_raw.fif"), picks=("mag",))


def test_the_only_reference_channel_is_zero_and_left_out(tmp_path: Path, cut: Cut) -> None:
    raw = annotate(make_raw(), EVENTS)
    source = cut(export(raw, tmp_path / "a_raw.fif"), reference=("Cz",))
    assert names_of(source) == ("Fz", "Pz", "Oz")
    expected = raw.copy().set_eeg_reference(["Cz"], verbose="ERROR").get_data(start=400, stop=600) * 1e6
    np.testing.assert_allclose(next(source.segments()).eeg, expected[[0, 2, 3]], rtol=1e-4, atol=1e-4)
    options: dict[str, Any] = {"reference": ("M1",)}
    with pytest.raises(UserError, match="--reference: a recording has no channel 'M1'"):
        list(cut(tmp_path / "a_raw.fif", **options).segments())


def test_positions_by_a_montage(tmp_path: Path, cut: Cut) -> None:
    names = ("Fz", "Cz", "Pz", "Oz", "C3", "C4", "F3", "F4")
    raw = annotate(make_raw(names=tuple(name.upper() for name in names)), EVENTS)
    path = export(raw, tmp_path / "a_raw.fif")
    source = cut(path, bad_channels=("CZ",), interpolate_bads=True, montage="standard_1020")
    expected = raw.copy().set_montage("standard_1020", match_case=False, verbose="ERROR")
    expected.info["bads"] = ["CZ"]
    expected.interpolate_bads(verbose="ERROR")
    np.testing.assert_allclose(
        next(source.segments()).eeg, expected.get_data(start=400, stop=600) * 1e6, rtol=1e-3, atol=1e-2
    )
    with pytest.raises(UserError, match="--montage cap99: "):
        cut(path, montage="cap99")
    with pytest.raises(UserError, match="positions"):
        list(cut(path, bad_channels=("CZ",), interpolate_bads=True).segments())


def test_mne_still_knows_the_types_that_labels_stand_for() -> None:
    from neuroimagen.data_shards.sources.recordings.channels.kinds import _KINDS

    raw = make_raw(names=tuple(_KINDS))
    raw.set_channel_types({kind: kind for kind in _KINDS}, on_unit_change="ignore")
    assert raw.get_channel_types() == list(_KINDS)
    assert isinstance(raw, mne.io.BaseRaw)
