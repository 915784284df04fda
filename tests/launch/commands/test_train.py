"""`neuroimagen train`: a dry run, and what its options start."""

from pathlib import Path
from typing import Any

import pytest

from neuroimagen.launch.cli import main
from neuroimagen.launch.jobs import train

RECIPE = str(Path(train.__file__).resolve().parents[1] / "recipes" / "demo.yaml")


def test_a_dry_run_needs_neither_data_nor_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    config = str(Path(RECIPE).with_name("eegcvpr40-sd15.yaml"))
    assert main(["train", "semantic", "--config", config, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "128 channels × 440 samples, 40 classes" in printed
    assert "77" in printed


def test_without_a_run_it_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "contrastive", "--config", RECIPE]) == 2
    assert "--run DIR is needed" in capsys.readouterr().err


def test_an_unknown_stage_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", "contrastiv", "--config", RECIPE])
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert "'contrastiv'" in printed
    assert "contrastive" in printed


def test_several_stages_are_trained_in_turn_until_one_does_not_end_well(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []

    def train_stage(recipe: Any, name: str, **options: Any) -> int:
        started.append(name)
        return 143 if name == "alignment" else 0

    monkeypatch.setattr(train, "train_stage", train_stage)
    words = ["--config", RECIPE, "--run", "run"]
    assert main(["train", "contrastive", "saliency", *words]) == 0
    assert main(["train", "contrastive", "alignment", "prior", *words]) == 143
    assert started == ["contrastive", "saliency", "contrastive", "alignment"]


def test_the_options_reach_the_job_and_its_code_is_the_command_s(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[Any, str, dict[str, Any]]] = []

    def train_stage(recipe: Any, name: str, **options: Any) -> int:
        started.append((recipe, name, options))
        return 143

    monkeypatch.setattr(train, "train_stage", train_stage)
    words = ["--run", "r", "--set", "seed=7", "--num-ranks", "2", "--max-restarts", "3", "--resume", "--cpu"]
    assert main(["train", "saliency", "--config", RECIPE, *words]) == 143
    ((recipe, name, options),) = started
    assert (recipe.seed, name) == (7, "saliency")
    assert options == {"run": Path("r"), "num_ranks": 2, "resume": True, "max_restarts": 3, "cpu": True}
