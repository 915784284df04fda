"""The control runs of `evaluate --controls`: which commands, in which order, and going on where one stopped."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import simulated_run
from small_study import RECIPE, write_latents, write_study

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.launch.cli import parse
from neuroimagen.launch.jobs import trained_controls as controls
from neuroimagen.launch.jobs.trained_controls import (
    make_control_runs,
    make_surrogate_run,
    steps_without_subject,
    surrogate_steps,
    why_none_without_subject,
)
from neuroimagen.trainer.evaluation.controls import UNSEEN_SUBJECT_CONDITION, unseen_subject_results
from neuroimagen.trainer.evaluation.drift_surrogate import original_of
from neuroimagen.trainer.evaluation.eeg_conditions import summarise_segments
from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.trainer.reconstruction.manifest import read_reconstructions

STAGES = ("contrastive", "saliency", "semantic")


def finish_stage(run: Path, stage: str, *, num_ranks: int = 2) -> None:
    """What a finished stage leaves, as far as the controls look at it."""
    (run / stage / "export").mkdir(parents=True, exist_ok=True)
    starts = [{"num_ranks": 1, "selection_split": "val"}, {"num_ranks": num_ranks, "selection_split": "val"}]
    (run / stage / "environment.json").write_text(json.dumps(starts))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with every stage, on a data set whose order of recording is known."""
    simulated_run.write_dataset(tmp_path / "data", block_design=True)
    for stage in STAGES:
        finish_stage(tmp_path / "run", stage)
    (tmp_path / "run" / "config.yaml").write_text(
        f"data:\n  path: {tmp_path / 'data'}\ncontrastive:\n  num_classes: 6\n  num_samples: 2\n"
    )
    return tmp_path / "run"


class Commands:
    """Stands in for starting processes: notes every command; those that contain a word of `failing` exit with 3."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failing: Sequence[str] = ()) -> None:
        self.started: list[list[str]] = []
        self.failing = failing
        monkeypatch.setattr(controls.subprocess, "run", self._run)

    def _run(self, command: list[str], *, check: bool) -> subprocess.CompletedProcess[bytes]:
        assert command[:3] == [sys.executable, "-m", "neuroimagen.launch.cli"]
        assert not check
        self.started.append(command[3:])
        return subprocess.CompletedProcess(command, 3 if set(self.failing) & set(command) else 0)

    @property
    def names(self) -> list[str]:
        """Each command's first two words that are no options."""
        return [" ".join(word for word in words[:2] if word[0] != "-") for words in self.started]


def value_after(words: Sequence[str], option: str) -> str:
    return words[list(words).index(option) + 1]


def test_the_surrogate_is_trained_in_the_order_of_the_stages_and_then_drawn(run: Path) -> None:
    steps = surrogate_steps(run, run / "controls" / "drift_surrogate")
    assert [step[:2] for step in steps[:-1]] == [("train", stage) for stage in STAGES]
    drawn = ("reconstruct", "--run", str(run / "controls" / "drift_surrogate"), "--conditions", "full")
    assert steps[-1] == (*drawn, "--set", "reconstruct.choose.conditions=[]", "reconstruct.side_segments=null")
    for step in steps[:-1]:
        assert value_after(step, "--config") == str(run / "config.yaml")
        assert value_after(step, "--run") == str(run / "controls" / "drift_surrogate")
        assert value_after(step, "--set") == f'data.path="{run / "controls" / "drift_surrogate" / "data"}"'
        assert step[-1] == "--resume"


def test_each_stage_gets_the_ranks_of_its_newest_start(run: Path) -> None:
    finish_stage(run, "saliency", num_ranks=3)
    steps = surrogate_steps(run, run / "controls" / "drift_surrogate")
    assert [value_after(step, "--num-ranks") for step in steps[:-1]] == ["2", "3", "2"]
    (run / "semantic" / "environment.json").write_text(json.dumps([{"selection_split": "val"}]))
    assert value_after(surrogate_steps(run, run / "p")[2], "--num-ranks") == "1"


def test_a_stage_that_another_starts_from_is_trained_on_the_surrogate_too(run: Path) -> None:
    recipe = run / "config.yaml"
    recipe.write_text(recipe.read_text() + "  initialise_from: masked\n")
    with pytest.raises(UserError, match=r"no trained masked: .*--controls quick"):
        surrogate_steps(run, run / "p")
    finish_stage(run, "masked")
    assert [step[1] for step in surrogate_steps(run, run / "p")[:-1]] == ["masked", *STAGES]


def test_missing_stages_are_named_before_anything_is_written(run: Path) -> None:
    shutil.rmtree(run / "saliency" / "export")
    shutil.rmtree(run / "semantic")
    with pytest.raises(UserError, match=r"no trained saliency, semantic: .*--controls quick"):
        make_surrogate_run(run, Dataset.open(run.parent / "data"))
    assert not (run / "controls").exists()


def test_no_surrogate_where_the_order_of_recording_is_unknown(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = Commands(monkeypatch)
    assert make_surrogate_run(run, Dataset.open(write_study(tmp_path / "no-order"))) is None
    assert commands.started == []
    assert not (run / "controls").exists()


def test_a_failing_step_is_one_error_and_the_next_call_goes_on(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = Dataset.open(run.parent / "data")
    commands = Commands(monkeypatch, failing=["saliency"])
    with pytest.raises(UserError) as failure:
        make_surrogate_run(run, dataset)
    assert "drift surrogate: train saliency failed (exit code 3)" in str(failure.value)
    assert "\n" not in str(failure.value)
    assert commands.names == ["train contrastive", "train saliency"]  # none after the one that failed
    assert "drift surrogate [2/4] neuroimagen train saliency --config" in capsys.readouterr().out

    written = {path: path.stat().st_mtime_ns for path in (run / "controls" / "drift_surrogate" / "data").rglob("*")}
    again = Commands(monkeypatch)
    assert make_surrogate_run(run, dataset) == run / "controls" / "drift_surrogate"
    # Every command is given again; what is finished says so itself (--resume), and the data are not drawn anew.
    assert again.names == ["train contrastive", "train saliency", "train semantic", "reconstruct"]
    assert {path: path.stat().st_mtime_ns for path in written} == written
    surrogate = Dataset.open(run / "controls" / "drift_surrogate" / "data")
    assert original_of(surrogate) == dataset.digest
    assert len(surrogate) == len(dataset)


def test_a_surrogate_of_other_data_is_refused(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = Commands(monkeypatch)
    make_surrogate_run(run, Dataset.open(run.parent / "data"))
    simulated_run.write_dataset(tmp_path / "other", block_design=True, seed=5)
    commands.started.clear()
    with pytest.raises(UserError, match=r"controls/drift_surrogate.*another data set.*Remove"):
        make_surrogate_run(run, Dataset.open(tmp_path / "other"))
    assert commands.started == []


def test_the_run_of_an_earlier_version_is_used_where_it_is(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = Commands(monkeypatch)
    dataset = Dataset.open(run.parent / "data")
    with monkeypatch.context() as earlier:
        earlier.setattr("neuroimagen.trainer.evaluation.drift_surrogate.ORIGINAL_KEY", "phantom_of")
        make_surrogate_run(run, dataset)
    former = (run / "controls" / "drift_surrogate").rename(run / "controls" / "phantom")
    written = {path: path.stat().st_mtime_ns for path in (former / "data").rglob("*")}
    commands.started.clear()
    assert make_surrogate_run(run, dataset) == former
    assert all(value_after(words, "--run") == str(former) for words in commands.started)
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert not (run / "controls" / "drift_surrogate").exists()


# ------------------------------------------------------------------------------------------------------ unseen subjects


def test_the_encoder_is_trained_on_all_subjects_but_one(run: Path) -> None:
    dataset = Dataset.open(run.parent / "data")
    assert why_none_without_subject(run, dataset) is None
    (step,) = steps_without_subject(run, dataset, 1)
    assert step[:2] == ("train", "contrastive")
    assert value_after(step, "--run") == str(run / "controls" / "without-subject-1")
    settings = step[step.index("--set") + 1 : step.index("--num-ranks")]
    recipe = load_recipe(run / "config.yaml", settings)
    assert recipe.data.subjects == (2,)
    assert recipe.data.path == str(dataset.folder)
    assert value_after(step, "--num-ranks") == "2"
    assert step[-1] == "--resume"


def test_what_the_encoder_starts_from_has_not_seen_the_subject_either(run: Path) -> None:
    recipe = run / "config.yaml"
    dataset = Dataset.open(run.parent / "data")
    plain = recipe.read_text()
    recipe.write_text(plain + "  initialise_from: masked\n")
    assert why_none_without_subject(run, dataset) == "the run has no trained masked stage"
    finish_stage(run, "masked")
    assert why_none_without_subject(run, dataset) is None
    assert [step[1] for step in steps_without_subject(run, dataset, 2)] == ["masked", "contrastive"]
    recipe.write_text(plain + "  initialise_from: runs/other/contrastive\n")
    reason = why_none_without_subject(run, dataset)
    assert reason == "the encoder starts from runs/other/contrastive, which may have seen every subject"


def test_why_there_is_no_run_without_a_subject(run: Path, tmp_path: Path) -> None:
    dataset = Dataset.open(run.parent / "data")
    assert why_none_without_subject(run, dataset, subjects=(2,)) == "there is one subject only"
    recipe = run / "config.yaml"
    recipe.write_text(recipe.read_text().replace("num_classes: 6", "num_classes: 7"))
    reason = why_none_without_subject(run, dataset)
    assert reason is not None
    assert "without subject 1 there are no batches to train on: 7 classes per batch were asked for" in reason
    shutil.rmtree(run / "contrastive" / "export")
    assert why_none_without_subject(run, dataset) == (
        "the run has neither a trained contrastive stage nor an alignment stage"
    )


def test_every_tested_subject_is_left_out_and_reasons_are_kept(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = Dataset.open(run.parent / "data")
    commands = Commands(monkeypatch)
    made = make_control_runs(run, dataset)
    assert made.drift_surrogate == run / "controls" / "drift_surrogate"
    assert made.without_subject == {n: run / "controls" / f"without-subject-{n}" for n in (1, 2)}
    assert made.absent == {}
    assert commands.names[-2:] == ["train contrastive", "train contrastive"]

    alone = make_control_runs(run, Dataset.open(write_study(tmp_path / "no-order")), subjects=(1,))
    assert (alone.drift_surrogate, alone.without_subject) == (None, {})
    assert "order of recording is unknown" in alone.absent["drift_surrogate_full"]
    assert alone.absent["eeg_classifier_unseen_subject"] == "there is one subject only"

    Commands(monkeypatch, failing=[str(run / "controls" / "without-subject-2")])
    with pytest.raises(UserError, match=r"^without subject 2: train contrastive failed \(exit code 3\)"):
        make_control_runs(run, dataset)


def test_every_step_leaves_accelerators_alone_where_the_evaluation_does(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = Commands(monkeypatch)
    make_control_runs(run, Dataset.open(run.parent / "data"), cpu=True)
    assert commands.names == [*(f"train {stage}" for stage in STAGES), "reconstruct", *["train contrastive"] * 2]
    assert all(parse(words).cpu for words in commands.started)
    commands.started.clear()
    make_control_runs(run, Dataset.open(run.parent / "data"))
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
    made = make_control_runs(run, dataset)
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
    assert make_control_runs(run, dataset) == made
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_what_is_not_made_is_named_by_what_the_run_has(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reasons stand beside the conditions of the stages that were trained."""
    Commands(monkeypatch)
    dataset = Dataset.open(run.parent / "data")
    finish_stage(run, "alignment")
    both = make_control_runs(run, dataset, subjects=(1,)).absent
    assert set(both) == {"eeg_classifier_unseen_subject", "alignment_unseen_subject"}
    for stage in STAGES:
        shutil.rmtree(run / stage)
    alone = make_control_runs(run, dataset, subjects=(1,))
    assert alone.drift_surrogate is None
    assert set(alone.absent) == {"drift_surrogate_full", "alignment_unseen_subject"}
    assert alone.absent["alignment_unseen_subject"] == "there is one subject only"
