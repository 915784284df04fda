"""Amplitudes and channels: measured on EEG of known make."""

from pathlib import Path

import numpy as np
import pytest

from neuroimagen.data_shards.dataset.audit_eeg import channels_like_eog, check_eeg, measure_eeg
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.format.schema import ClassInfo, DatasetMetadata, SegmentRecord, StimulusRecord
from neuroimagen.data_shards.writing.writer import DatasetWriter

NAMES = ("Fz", "Cz", "Pz", "Oz", "Fp1", "T8")
SFREQ = 250.0


def noise(num: int = 60, samples: int = 250) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((num, len(NAMES), samples))


def written(
    folder: Path, eeg: np.ndarray, *, names: tuple[str, ...] | None = NAMES, **preprocessing: object
) -> Dataset:
    metadata = DatasetMetadata(
        name="t",
        n_channels=eeg.shape[1],
        n_samples=eeg.shape[2],
        sfreq=SFREQ,
        classes=(ClassInfo(name="a"),),
        channel_names=names,
        preprocessing=preprocessing,
    )
    with DatasetWriter(folder, metadata) as writer:
        writer.add_stimulus(StimulusRecord(key="s", image=b"x", extension="png", label=0, caption="an image of a"))
        for segment in eeg:
            record = SegmentRecord(eeg=segment.astype(np.float32), stimulus="s", label=0, subject=1, split="train")
            writer.add_segment(record)
    return Dataset.open(folder)


def findings(dataset: Dataset) -> dict[str, tuple[str, str]]:
    return {each.check: (each.level, each.text) for each in check_eeg(measure_eeg(dataset), dataset.metadata)}


@pytest.mark.parametrize(
    ("factor", "preprocessing", "level", "text"),
    [
        (10, {"unit": "microvolt"}, "good", "is 10 µV"),
        (1e-5, {"unit": "microvolt"}, "problem", "scalp EEG has 0.5 to 200 µV"),
        (1e7, {"unit": "microvolt"}, "problem", "Are the recording's units right?"),
        (10, {}, "good", "the unit is not stated"),
        (1e-5, {}, "note", "this is EEG in volts"),
        (1e4, {}, "note", "no EEG has this amplitude"),
        (1, {"unit": "microvolt", "standardise": True}, "good", "standard deviation in a segment is 1"),
    ],
)
def test_amplitudes_that_no_eeg_has(
    tmp_path: Path, factor: float, preprocessing: dict[str, object], level: str, text: str
) -> None:
    found = findings(written(tmp_path / "d", noise() * factor, **preprocessing))["amplitude"]
    assert found[0] == level
    assert text in found[1]


def test_a_single_value_that_no_eeg_has_is_noted(tmp_path: Path) -> None:
    eeg = noise() * 10
    eeg[7, 2, 100] = 9e4
    level, text = findings(written(tmp_path / "d", eeg, unit="microvolt"))["amplitude"]
    assert level == "note"
    assert "values reach 89," in text


def test_measures_agree_with_their_definitions(tmp_path: Path) -> None:
    eeg = noise() * np.array([1, 2, 3, 4, 5, 6])[:, None] + 100
    measured = measure_eeg(written(tmp_path / "d", eeg))
    assert measured is not None
    assert measured.count == 60
    np.testing.assert_allclose(measured.deviation, [1, 2, 3, 4, 5, 6], rtol=0.02)
    np.testing.assert_allclose(measured.kurtosis, 0, atol=0.15)
    np.testing.assert_allclose(measured.slow_share, 1 / 31, rtol=0.2)  # white noise over averages of 31 samples
    np.testing.assert_allclose(measured.largest, np.abs(eeg - eeg.mean(axis=2, keepdims=True)).max(), rtol=1e-3)


def blinks(num: int = 60, samples: int = 250) -> np.ndarray:
    """A deflection of 0.3 s in every tenth segment."""
    shape = np.exp(-0.5 * ((np.arange(samples) - 120) / 20) ** 2)
    return shape * (np.arange(num) % 10 == 0)[:, None]


@pytest.mark.parametrize("standardised", [False, True])
def test_a_channel_of_blinks_looks_like_eog(tmp_path: Path, standardised: bool) -> None:
    eeg = noise()
    eeg[:, 4] += 20 * blinks()
    if standardised:
        eeg /= eeg.std(axis=(0, 2), keepdims=True)
    level, text = findings(written(tmp_path / "d", eeg))["channels"]
    assert level == "note"
    assert "1 channels look like EOG (Fp1; by values" in text


def test_a_bad_electrode_is_no_eye(tmp_path: Path) -> None:
    eeg = noise()
    eeg[:, 2] *= 30
    eeg[:, 3] *= 0.01
    level, text = findings(written(tmp_path / "d", eeg))["channels"]
    assert level == "note"
    assert "look like EOG" not in text
    assert "2 of 6 channels are far larger or smaller than the median channel (Pz: 30 times, Oz: 0.01 times)" in text


def test_eye_channels_are_known_by_their_names(tmp_path: Path) -> None:
    names = ("VEOG", "heog", "EOG left", "EXG3", "LO1", "Eye")
    measured = measure_eeg(written(tmp_path / "d", noise(), names=names))
    assert measured is not None
    assert channels_like_eog(measured, names)[0] == list(range(6))
    assert channels_like_eog(measured, ("O1", "PO1", "FEO", "Fp1", "EEG 001", "Oz")) == ([], [])


def test_a_clean_data_set_is_said_to_be_clean(tmp_path: Path) -> None:
    found = findings(written(tmp_path / "d", noise(samples=20) * 10, names=None))
    assert {level for level, _ in found.values()} == {"good"}
