"""`bench small-eeg`: its simulated sets hold what their names say, and its table says where it loses."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from neuroimagen.benchmarks import small_eeg
from neuroimagen.data_shards.common.errors import UsageError


def accuracies(name: str) -> dict[str, float]:
    arrays = small_eeg.SIMULATED[name](1)
    found = small_eeg.baseline_predictions(arrays["x_train"], arrays["y_train"], arrays["x_test"], 128.0)
    return {method: float((predicted == arrays["y_test"]).mean()) for method, predicted in found.items()}


def test_simulated_sets_hold_what_their_names_say() -> None:
    evoked, power, nothing = (accuracies(name) for name in ("evoked", "power", "nothing"))
    assert evoked["ridge"] > 0.65 > evoked["tangent space"]
    assert power["tangent space"] > 0.85
    assert power["ridge"] < 0.6
    assert all(abs(value - 0.5) < 0.12 for value in nothing.values())  # 200 segments: 3.4 standard errors


def test_a_set_is_given_with_its_rate() -> None:
    with pytest.raises(UsageError, match=r"expected FILE\.npz=HZ"):
        small_eeg.run(argparse.Namespace(sets=["FingerMovements.npz"]))


def test_the_table_shows_the_difference_to_the_best_decoder() -> None:
    entry = {"value": 0.5, "low": 0.4, "high": 0.6}
    methods = (*small_eeg.BASELINES, *small_eeg.OURS)
    study = {
        "seed": 1,
        "sets": {
            "one": {
                "num_segments": {"train": 30, "test": 20},
                "chance": 0.5,
                "accuracy": dict.fromkeys(methods, entry),
                "best_baseline": "LDA",
                "difference": {"value": -0.1, "low": -0.2, "high": 0.0},
            }
        },
    }
    lines = small_eeg.table([study], small_eeg.summarise([study]))
    assert any("classifier stage − best decoder" in line and "-10.0 [-20.0, 0.0]" in line for line in lines)
    assert any("best decoder on test: LDA" in line for line in lines)


@pytest.mark.slow  # trains fifteen networks
def test_a_real_set_is_measured(tmp_path: Path) -> None:
    arrays = small_eeg.simulated(1, evoked=1.0)
    np.savez(tmp_path / "own.npz", **{key: values[:60] for key, values in arrays.items()})
    args = argparse.Namespace(
        sets=[f"{tmp_path / 'own.npz'}=128"], simulated=[], seeds=[1], work=tmp_path / "work", json=tmp_path / "f.json"
    )
    small_eeg.run(args)
    found = json.loads((tmp_path / "f.json").read_text())["studies"][0]["sets"]["own"]
    assert found["num_segments"] == {"train": 60, "test": 60}
    assert found["accuracy"]["classifier stage"]["value"] > 0.7
