"""`neuroimagen data audit` as a user calls it."""

from pathlib import Path

import numpy as np
import pytest
import simulated_run

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.launch.cli import main


def test_the_command_says_what_drift_can_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    simulated_run.write_dataset(tmp_path / "data", num_images=12, block_design=True, signal=0.0, drift=3.0)
    assert main(["data", "audit", str(tmp_path / "data"), "--json", str(tmp_path / "audit.json")]) == 1
    printed = capsys.readouterr().out
    assert "PROBLEM" in printed
    assert "This is slow drift" in printed
    report = json.loads((tmp_path / "audit.json").read_text())
    assert {item["condition"] for item in report["results"]} >= {
        "drift_surrogate_linear_decoder",
        "leave_one_subject_out",
        "block_index_only",
    }
    assert main(["data", "audit", str(tmp_path / "data"), "--no-eeg"]) == 1
    assert "surrogate" not in capsys.readouterr().out


@pytest.mark.parametrize("labels", ["one class", "zero-shot"])
def test_without_a_class_to_decode_the_command_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, labels: str
) -> None:
    simulated_run.write_dataset(tmp_path / "data", num_images=12, block_design=False)
    dataset = Dataset.open(tmp_path / "data")
    changed = np.zeros(len(dataset), dtype=np.int32)
    if labels == "zero-shot":
        changed[dataset.rows("test")] = 1
    object.__setattr__(dataset.index, "label", changed)
    monkeypatch.setattr(Dataset, "open", lambda _: dataset)
    main(["data", "audit", str(tmp_path / "data")])
    assert "No decoder of the class can be fitted" in capsys.readouterr().out
