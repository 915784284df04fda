"""The control runs of `evaluate --controls`: all of them, each with its reason where it is not made."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from control_steps import Commands, finish_stage
from small_study import RECIPE, write_latents, write_study

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.launch.cli import parse
from neuroimagen.launch.jobs.commands import run_commands
from neuroimagen.trainer.evaluation.controls import UNSEEN_SUBJECT_CONDITION, unseen_subject_results
from neuroimagen.trainer.evaluation.eeg_conditions import summarise_segments
from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.trainer.reconstruction.manifest import read_reconstructions
from neuroimagen.trainer.retraining.controls import make_control_runs
from neuroimagen.trainer.retraining.drift_surrogate import STAGES


def test_every_tested_subject_is_left_out_and_reasons_are_kept(run: Path, tmp_path: Path) -> None:
    dataset = Dataset.open(run.parent / "data")
    commands = Commands()
    made = make_control_runs(run, dataset, run_commands=commands)
    assert made.drift_surrogate == run / "controls" / "drift_surrogate"
    assert made.without_subject == {n: run / "controls" / f"without-subject-{n}" for n in (1, 2)}
    assert made.absent == {}
    assert commands.names[-2:] == ["train contrastive", "train contrastive"]

    alone = make_control_runs(
        run, Dataset.open(write_study(tmp_path / "no-order")), run_commands=commands, subjects=(1,)
    )
    assert (alone.drift_surrogate, alone.without_subject) == (None, {})
    assert "order of recording is unknown" in alone.absent["drift_surrogate_full"]
    assert alone.absent["eeg_classifier_unseen_subject"] == "there is one subject only"

    failing = Commands(failing=[str(run / "controls" / "without-subject-2")])
    with pytest.raises(UserError, match=r"^without subject 2: train contrastive failed"):
        make_control_runs(run, dataset, run_commands=failing)


def test_every_step_leaves_accelerators_alone_where_the_evaluation_does(run: Path) -> None:
    commands = Commands()
    make_control_runs(run, Dataset.open(run.parent / "data"), run_commands=commands, cpu=True)
    assert commands.names == [*(f"train {stage}" for stage in STAGES), "reconstruct", *["train contrastive"] * 2]
    assert all(parse(words).cpu for words in commands.started)
    commands.started.clear()
    make_control_runs(run, Dataset.open(run.parent / "data"), run_commands=commands)
    assert not any(parse(words).cpu for words in commands.started)


@pytest.mark.slow
def test_the_controls_are_really_trained_and_not_made_twice(tmp_path: Path, tiny_diffusion_folder: Path) -> None:
    data = write_study(tmp_path / "data", block_size=8)
    write_latents(data, tiny_diffusion_folder)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(data=data, model=tiny_diffusion_folder))
    run = tmp_path / "a run"  # whose name holds a space
    for stage in STAGES:
        train = ("train", stage, "--config", str(recipe), "--run", str(run), "--num-ranks", "1")
        subprocess.run([sys.executable, "-m", "neuroimagen.launch.cli", *train], check=True)
    dataset = Dataset.open(data)
    made = make_control_runs(run, dataset, run_commands=run_commands)
    assert made.drift_surrogate == run / "controls" / "drift_surrogate"
    assert len(read_reconstructions(made.drift_surrogate)["full"]) == len(dataset.rows("test"))
    for subject, other in made.without_subject.items():
        assert load_recipe(other / "contrastive" / "config.yaml").data.subjects == (3 - subject,)
    summaries = summarise_segments(dataset, encoder=None)
    results = unseen_subject_results(dataset, summaries, made.without_subject, num_resamples=50, seed=0)
    assert {item.condition for item in results} == {UNSEEN_SUBJECT_CONDITION}
    assert results[0].n == len(dataset.rows("test"))

    written = {path: path.stat().st_mtime_ns for path in (run / "controls").rglob("*.safetensors")}
    assert len({path.relative_to(run / "controls").parts[0] for path in written}) == 3
    assert make_control_runs(run, dataset, run_commands=run_commands) == made
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_what_is_not_made_is_named_by_what_the_run_has(run: Path) -> None:
    """The reasons stand beside the conditions of the stages that were trained."""
    commands = Commands()
    dataset = Dataset.open(run.parent / "data")
    finish_stage(run, "alignment")
    both = make_control_runs(run, dataset, run_commands=commands, subjects=(1,)).absent
    assert set(both) == {"eeg_classifier_unseen_subject", "alignment_unseen_subject"}
    for stage in STAGES:
        shutil.rmtree(run / stage)
    alone = make_control_runs(run, dataset, run_commands=commands, subjects=(1,))
    assert alone.drift_surrogate is None
    assert set(alone.absent) == {"drift_surrogate_full", "alignment_unseen_subject"}
    assert alone.absent["alignment_unseen_subject"] == "there is one subject only"
