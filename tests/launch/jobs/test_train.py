"""Training as a command: what is checked before ranks start."""

import json
from pathlib import Path

import numpy as np
import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.launch.cli import main
from neuroimagen.launch.jobs.train import TrainWork, check_inputs
from neuroimagen.trainer.recipe.recipe import load_recipe


@pytest.mark.parametrize(
    ("setting", "message"),
    [("contrastive.num_classes=400", "400 classes per batch were asked for"), ("data.path=nowhere", "nowhere")],
)
def test_a_refused_training_leaves_nothing(
    job_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str, message: str
) -> None:
    words = ["train", "contrastive", "--config", str(job_recipe), "--cpu", "--num-ranks", "1", "--set", setting]
    run = tmp_path / "run"
    assert main([*words, "--run", str(run)]) == 1
    assert message in capsys.readouterr().err
    assert not run.exists()
    (run / "saliency").mkdir(parents=True)
    assert main([*words, "--run", str(run)]) == 1
    assert list(run.iterdir()) == [run / "saliency"]


def test_another_recipe_s_run_stays_as_it_is(
    job_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text("seed: 77\n", encoding="utf-8")
    words = ["train", "contrastive", "--config", str(job_recipe), "--cpu", "--num-ranks", "1", "--run", str(tmp_path)]
    assert main(words) == 1
    assert "another recipe's run" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(("num_samples", "is_said"), [(18, False), (500, True)])
def test_repeated_segments_are_said_once_before_ranks_start(
    job_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], num_samples: int, is_said: bool
) -> None:
    recipe = load_recipe(job_recipe, [f"contrastive.num_samples={num_samples}"])
    check_inputs(recipe, "contrastive", tmp_path, num_ranks=1)
    said = capsys.readouterr().err
    if not is_said:
        assert said == ""
        return
    assert said.startswith("contrastive: 4 of 4 classes have fewer than the 500 segments that a batch takes of each")
    assert said.count("\n") == 1
    dataset = Dataset.open(str(recipe.data.path))
    counts = np.bincount(dataset.index.label[dataset.rows("train")], minlength=4)
    for name, count in zip((item.name for item in dataset.metadata.classes), counts, strict=True):
        assert f"{name} ({count})" in said
    assert f"With num_samples {counts.min()} none is repeated" in said


def test_an_ensemble_is_described_by_its_networks_and_all_their_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("classifier: {steps: 40, ensemble: {folds: 3, encoders: [linear, eegnet]}}\n")
    work = TrainWork(load_recipe(path), "classifier", run=tmp_path / "run", resume=False, cpu=True)
    assert work.describe(1).startswith("classifier: 240 steps of 6 networks on 1 rank,")
    figures = {"low": 0.4, "high": 0.6, "n": 30, "log_loss": 0.7}
    encoders = [
        {"encoder": "linear", "accuracy": 0.51, "weight": 0.75, **figures},
        {"encoder": "all", "accuracy": 0.53, "weight": 1.0, **figures},
    ]
    content = {"folds": 3, "seeds": 1, "by_stimulus": False, "encoders": encoders}
    (tmp_path / "run" / "classifier").mkdir(parents=True)
    (tmp_path / "run" / "classifier" / "cross-validation.json").write_text(json.dumps(content))
    assert work.conclude(None) == 0
    printed = capsys.readouterr().out
    assert "3 folds of the training and validation segments, by segment" in printed
    assert "51.0 %  40.0–60.0     0.75" in printed
    plain = tmp_path / "plain.yaml"
    plain.write_text("classifier: {steps: 40}\n")
    work = TrainWork(load_recipe(plain), "classifier", run=tmp_path / "other", resume=False, cpu=True)
    assert work.describe(1).startswith("classifier: 40 steps on 1 rank,")


def test_every_encoder_of_an_ensemble_is_checked_before_ranks_start(job_recipe: Path, tmp_path: Path) -> None:
    """A fold has fewer segments than the training split, and each encoder its own needs."""
    ensemble = "classifier.ensemble={folds: 2, encoders: [linear, eegnet]}"
    check_inputs(load_recipe(job_recipe, [ensemble, "classifier.batch_size=4"]), "classifier", tmp_path, num_ranks=1)
    with pytest.raises(UserError, match=r"classifier\.ensemble, encoder linear: .*100000"):
        check_inputs(
            load_recipe(job_recipe, [ensemble, "classifier.batch_size=100000"]), "classifier", tmp_path, num_ranks=1
        )
