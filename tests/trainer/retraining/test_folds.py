"""Trainings without a fold: which, with which recipe, in which order; going on where one was killed; and as a job."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_study import RECIPE, write_latents, write_study

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.launch.jobs import train as job
from neuroimagen.launch.jobs.train import TrainWork
from neuroimagen.trainer.recipe.recipe import Recipe, dump_recipe, load_recipe
from neuroimagen.trainer.retraining.folds import fold_trainings
from neuroimagen.trainer.runs.run_folder import StageFolder, open_stage_folder
from neuroimagen.trainer.training import loop


@pytest.fixture(scope="module")
def recipe_path(tmp_path_factory: pytest.TempPathFactory, tiny_diffusion_folder: Path) -> Path:
    """The small study with latents, and a recipe for it. Read only."""
    folder = tmp_path_factory.mktemp("folds")
    write_latents(write_study(folder / "data"), tiny_diffusion_folder, kinds=("image",))
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(data=folder / "data", model=tiny_diffusion_folder), encoding="utf-8")
    return path


def train_here(recipe: Recipe, stage: str, *, run: Path, **_: Any) -> int:
    """Stands in for a job: trains in this process, from the newest checkpoint."""
    folder = StageFolder(run, stage)
    folder.path.mkdir(parents=True, exist_ok=True)
    open_stage_folder(folder, recipe, num_ranks=1, resume=True)
    loop.train(recipe, stage, folder, device=torch.device("cpu"), stop=loop.StopRequest())
    return 0


def prepare(recipe: Recipe, run: Path) -> None:
    """What comes before the ranks of the prior stage."""
    with TrainWork(recipe, "prior", run=run, resume=True, cpu=True).prepared(1) as needed:
        assert needed


def finished(run: Path, *stages: str, recipe: Recipe) -> None:
    """What a finished stage leaves, as far as fold trainings look at it."""
    for stage in stages:
        (run / stage / "export").mkdir(parents=True)
        (run / stage / "config.yaml").write_text(dump_recipe(recipe), encoding="utf-8")


def test_each_fold_trains_what_alignment_was_trained_from(recipe_path: Path, tmp_path: Path) -> None:
    words = ["alignment.initialise_from=contrastive", "alignment.learning_rate=0.125"]
    finished(tmp_path, "contrastive", "alignment", recipe=load_recipe(recipe_path, words))
    # The sections that the stages were trained with count, not those that the prior's recipe has now.
    recipe = load_recipe(recipe_path, ["prior.fold_steps=7"])
    trainings = fold_trainings(recipe, "prior", tmp_path)
    assert [(item.fold, item.stage) for item in trainings] == [
        *((0, stage) for stage in ("contrastive", "alignment")),
        *((1, stage) for stage in ("contrastive", "alignment")),
    ]
    for item in trainings:
        assert item.run == tmp_path / "prior" / "folds" / str(item.fold)
        assert item.recipe.data.leave_out == (item.fold, 2)
        assert item.recipe.stages["alignment"].learning_rate == 0.125
        assert item.recipe.stages["contrastive"].steps == 20
        assert item.recipe.stages["alignment"].steps == (7 if item.stage == "alignment" else 20)
    naive = load_recipe(recipe_path, ["prior.embeddings=naive"])
    assert fold_trainings(naive, "prior", tmp_path) == []
    assert fold_trainings(recipe, "alignment", tmp_path) == []


def test_an_encoder_that_may_know_every_stimulus_is_refused(recipe_path: Path, tmp_path: Path) -> None:
    begun = load_recipe(recipe_path, ["alignment.initialise_from=elsewhere/masked"])
    finished(tmp_path, "alignment", recipe=begun)
    with pytest.raises(UserError, match=r"elsewhere/masked, which may have seen every stimulus.*embeddings=naive"):
        fold_trainings(load_recipe(recipe_path), "prior", tmp_path)


def test_folds_of_another_run_s_alignment_are_trained_in_this_one(recipe_path: Path, tmp_path: Path) -> None:
    finished(tmp_path / "other", "alignment", recipe=load_recipe(recipe_path))
    recipe = load_recipe(recipe_path, [f"prior.initialise_from={tmp_path / 'other' / 'alignment'}"])
    trainings = fold_trainings(recipe, "prior", tmp_path / "run")
    assert [item.run for item in trainings] == [tmp_path / "run" / "prior" / "folds" / str(fold) for fold in (0, 1)]


@pytest.fixture
def aligned(one_rank: None, recipe_path: Path, tmp_path: Path) -> Path:
    """A run with the alignment stage."""
    train_here(load_recipe(recipe_path), "alignment", run=tmp_path / "run")
    return tmp_path / "run"


def test_a_fold_that_was_killed_goes_on_to_the_same_bits(
    aligned: Path, recipe_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "train_stage", train_here)
    recipe = load_recipe(recipe_path)
    whole = shutil.copytree(aligned, tmp_path / "whole")
    prepare(recipe, whole)
    real, steps = loop.train_step, []

    def stop_in_the_second_fold(*args: Any, **kwargs: Any) -> Any:
        steps.append(args[4])
        if len(steps) == 35:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", stop_in_the_second_fold)
        with pytest.raises(KeyboardInterrupt):
            prepare(recipe, aligned)
    assert [StageFolder(aligned / "prior" / "folds" / fold, "alignment").is_finished for fold in "01"] == [True, False]
    first = aligned / "prior" / "folds" / "0" / "alignment" / "export" / "model.safetensors"
    before = first.stat().st_mtime_ns
    prepare(recipe, aligned)
    assert first.stat().st_mtime_ns == before  # a finished fold is not trained again
    for fold in "01":
        export = f"prior/folds/{fold}/alignment/export/model.safetensors"
        assert (aligned / export).read_bytes() == (whole / export).read_bytes()
    exports = [load_file(aligned / f"prior/folds/{fold}/alignment/export/model.safetensors") for fold in "01"]
    assert not torch.equal(exports[0]["centre_0"], exports[1]["centre_0"])  # of other stimuli


def test_a_stopped_fold_stops_the_job_with_its_code(
    aligned: Path, recipe_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "train_stage", lambda *_, **__: 138)
    with pytest.raises(SystemExit) as stopped:
        prepare(load_recipe(recipe_path), aligned)
    assert stopped.value.code == 138


def test_a_refused_prior_trains_no_fold(aligned: Path, recipe_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    monkeypatch.setattr(job, "train_stage", lambda *words, **_: started.append(words[1]))
    recipe = load_recipe(recipe_path)
    large = recipe.with_stage("prior", dataclasses.replace(recipe.stages["prior"], batch_size=4096))
    with pytest.raises(UserError, match="do not fill a global batch of 4096"):
        prepare(large, aligned)
    assert started == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_command_line_trains_folds_and_prior(recipe_path: Path, tmp_path: Path) -> None:
    def train(stage: str, *words: str) -> str:
        command = [sys.executable, "-m", "neuroimagen.launch.cli", "train", stage, "--config", str(recipe_path)]
        command += ["--run", str(tmp_path / "run"), "--cpu", "--num-ranks", "2", *words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout

    train("alignment")
    said = train("prior")
    assert "prior: alignment without fold 0 of the training stimuli" in said
    assert "prior: alignment without fold 1 of the training stimuli" in said
    metadata = json.loads((tmp_path / "run" / "prior" / "embeddings" / "embeddings.json").read_text())
    assert len(metadata["made_of"]["networks"]) == 2
    assert (tmp_path / "run" / "prior" / "export" / "model.safetensors").is_file()
    assert "already finished" in train("prior", "--resume")
