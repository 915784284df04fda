"""`bench pretraining`: both arms choose from one grid by validation, and the figures are those of their exports."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from neuroimagen.benchmarks import pretraining
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.networks.classifier import ClassifierModel


def test_a_stage_is_worth_what_it_exports(tmp_path: Path) -> None:
    lines = [
        {"step": 10, "loss": 2.0},
        {"step": 50, "val_accuracy": 0.3, "val_loss": 1.9},
        {"step": 100, "val_accuracy": 0.5, "val_loss": 1.5},
        {"step": 150, "val_accuracy": 0.5, "val_loss": 1.4},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert pretraining.best_validation(tmp_path) == {"best_step": 100, "val_accuracy": 0.5}


def test_the_first_of_equals_is_chosen() -> None:
    assert pretraining.best_of([0.2, 0.4, 0.4]) == 1


def test_differences_are_taken_within_seeds() -> None:
    studies = [
        {
            "accuracy": {
                name: {"value": value}
                for name, value in (("pretrained", base + gain), ("scratch", base), ("difference", gain))
            },
            "linear_decoder": 0.5,
        }
        for base, gain in ((0.1, 0.05), (0.5, 0.05), (0.3, 0.05))
    ]
    summary = pretraining.summarise(studies)
    assert (summary["difference"]["low"], summary["difference"]["high"]) == pytest.approx((0.05, 0.05))
    assert summary["scratch"]["high"] - summary["scratch"]["low"] > 0.5


@pytest.mark.slow  # six commands, each a process that loads torch and DeepSpeed
def test_the_whole_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    args = argparse.Namespace(tiny=True, seeds=[3], work=tmp_path / "work", json=file)
    pretraining.run(args)
    study = json.loads(file.read_text())["studies"][0]
    assert "mean over seeds" in capsys.readouterr().out

    folder = tmp_path / "work" / "seed-3"
    dataset = Dataset.open(folder / "data")
    rows = dataset.rows("test")
    for arm in pretraining.ARMS:
        model = ClassifierModel.from_pretrained(folder / study["chosen"][arm]["run"] / "classifier" / "export")
        with torch.inference_mode():
            logits = torch.cat([model(torch.from_numpy(dataset.eeg(int(row)))[None]) for row in rows])
        right = logits.argmax(1).numpy() == dataset.index.label[rows]
        assert study["accuracy"][arm]["value"] == pytest.approx(float(np.mean(right)))
    # Both arms have the same grid, and the first starts from the masked stage's encoder.
    grids = [[(t["learning_rate"], t["steps"]) for t in study["tried"][arm]] for arm in ("pretrained", "scratch")]
    assert grids[0] == grids[1]
    assert study["num_segments"]["labelled"] < study["num_segments"]["unlabelled"]
    configs = [(folder / study["chosen"][arm]["run"] / "config.yaml").read_text() for arm in ("pretrained", "scratch")]
    assert "seed-3/masked/masked" in configs[0]
    assert "seed-3/masked/masked" not in configs[1]
