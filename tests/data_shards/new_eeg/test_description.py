"""What dataset.json says of a data set's EEG, as a run keeps it."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.format.schema import DatasetMetadata
from neuroimagen.data_shards.new_eeg.description import NO_SUBJECT, STEPS, InputDescription
from neuroimagen.data_shards.writing.preprocessing import Preprocessing


def test_a_data_set_of_recordings_is_described_and_read_back(study: Callable, tmp_path: Path) -> None:
    made = study(
        Preprocessing(detrend=True, standardise=True, clamp=5.0),
        band_hz=(1.0, 40.0),
        reference=("average",),
        baseline=(-0.2, 0.0),
        tmin=-0.003,
        tmax=0.5,
    )
    wanted = made.wanted
    assert (wanted.n_channels, wanted.sfreq, wanted.unit, wanted.band_hz) == (5, 200.0, "microvolt", (1.0, 40.0))
    assert wanted.first_sample_s == -0.005  # on the grid of samples, as it was cut
    assert [step.name for step in wanted.steps] == [name for name in STEPS if name not in ("source", "projectors")]
    wanted.write(tmp_path)
    assert InputDescription.read(tmp_path) == wanted
    assert InputDescription.read(tmp_path / "none") is None


def test_a_damaged_description_is_refused(wanted: InputDescription, tmp_path: Path) -> None:
    wanted.write(tmp_path)
    tree = json.loads((tmp_path / "input.json").read_text())
    for change in ({"channel_names": ["Fz"]}, {"version": 2}, {"window": 3}):
        (tmp_path / "input.json").write_text(json.dumps({**tree, **change}))
        with pytest.raises(UserError, match=r"input\.json is no description of EEG"):
            InputDescription.read(tmp_path)


def test_windows_of_other_sources() -> None:
    def first(**preprocessing: object) -> float | None:
        metadata = DatasetMetadata(
            name="x", n_channels=1, n_samples=4, sfreq=1000.0, classes=(), preprocessing=preprocessing
        )
        return InputDescription.of(metadata).first_sample_s

    assert first(window=[20, 460]) == 0.02
    assert first(window=[0, 250], first_sample_s=-0.2) == -0.2
    assert first() is None


def test_epochs_count_where_all_files_were_alike() -> None:
    def epochs(*recordings: dict[str, object]) -> object:
        facts = {str(number): each for number, each in enumerate(recordings)}
        metadata = DatasetMetadata(
            name="x", n_channels=1, n_samples=4, sfreq=100.0, classes=(), provenance={"recordings": facts}
        )
        return InputDescription.of(metadata).epochs

    one = {"sfreq": 200.0, "epochs": {"first_sample_s": -0.2, "num_samples": 160}}
    assert epochs(one, one) == {"sfreq": 200.0, "first_sample_s": -0.2, "num_samples": 160}
    assert epochs(one, {**one, "sfreq": 250.0}) is None
    assert epochs({"sfreq": 200.0}) is None


def test_subjects_by_number_and_label(wanted: InputDescription) -> None:
    wanted = dataclasses.replace(wanted, subjects=(1, 7), subject_labels={"pilot": 1, "07": 7})
    assert wanted.subject_numbers(None, 2).tolist() == [NO_SUBJECT, NO_SUBJECT]
    assert wanted.subject_numbers("sub-pilot", 2).tolist() == [1, 1]
    assert wanted.subject_numbers([np.int64(3), "07"], 2).tolist() == [3, 7]
    with pytest.raises(UserError, match=r"no subject 'pilto'.*it has pilot, 07"):
        wanted.subject_numbers("pilto", 1)
    with pytest.raises(UserError, match="3 subjects are given for 2 segments"):
        wanted.subject_numbers([1, 2, 3], 2)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sfreq", "100"),
        ("sfreq", 0),
        ("n_samples", [20]),
        ("n_channels", 10**12),
        ("channel_names", [1, 2]),
        ("first_sample_s", []),
        ("band_hz", [1]),
        ("preprocessing", []),
        ("epochs", 3),
        ("subjects", ["x"]),
        ("subject_labels", {"a": None}),
        ("unit", {}),
    ],
)
def test_an_odd_field_of_the_file_is_named(tmp_path: Path, field: str, value: object) -> None:
    InputDescription(data="d", n_channels=2, n_samples=20, sfreq=100.0).write(tmp_path)
    path = tmp_path / "input.json"
    assert InputDescription.read(tmp_path) is not None
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(UserError, match=rf"input\.json is no description of EEG .*{field} is"):
        InputDescription.read(tmp_path)
