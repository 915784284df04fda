"""The run on a drift surrogate: which commands, in which order, and going on where one stopped."""

import shutil
from pathlib import Path

import pytest
import simulated_run
from control_steps import Commands, finish_stage, value_after
from small_study import write_study

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.evaluation.drift_surrogate import original_of
from neuroimagen.trainer.retraining.drift_surrogate import STAGES, make_surrogate_run, surrogate_steps


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
        make_surrogate_run(run, Dataset.open(run.parent / "data"), run_commands=Commands())
    assert not (run / "controls").exists()


def test_no_surrogate_where_the_order_of_recording_is_unknown(run: Path, tmp_path: Path) -> None:
    commands = Commands()
    assert make_surrogate_run(run, Dataset.open(write_study(tmp_path / "no-order")), run_commands=commands) is None
    assert commands.started == []
    assert not (run / "controls").exists()


def test_a_failing_step_is_one_error_and_the_next_call_goes_on(run: Path) -> None:
    dataset = Dataset.open(run.parent / "data")
    commands = Commands(failing=["saliency"])
    with pytest.raises(UserError) as failure:
        make_surrogate_run(run, dataset, run_commands=commands)
    assert str(failure.value) == "drift surrogate: train saliency failed"
    assert commands.names == ["train contrastive", "train saliency"]  # none after the one that failed

    written = {path: path.stat().st_mtime_ns for path in (run / "controls" / "drift_surrogate" / "data").rglob("*")}
    again = Commands()
    assert make_surrogate_run(run, dataset, run_commands=again) == run / "controls" / "drift_surrogate"
    # Every command is given again; what is finished says so itself (--resume), and the data are not drawn anew.
    assert again.names == ["train contrastive", "train saliency", "train semantic", "reconstruct"]
    assert {path: path.stat().st_mtime_ns for path in written} == written
    surrogate = Dataset.open(run / "controls" / "drift_surrogate" / "data")
    assert original_of(surrogate) == dataset.digest
    assert len(surrogate) == len(dataset)


def test_a_surrogate_of_other_data_is_refused(run: Path, tmp_path: Path) -> None:
    commands = Commands()
    make_surrogate_run(run, Dataset.open(run.parent / "data"), run_commands=commands)
    simulated_run.write_dataset(tmp_path / "other", block_design=True, seed=5)
    commands.started.clear()
    with pytest.raises(UserError, match=r"controls/drift_surrogate.*another data set.*Remove"):
        make_surrogate_run(run, Dataset.open(tmp_path / "other"), run_commands=commands)
    assert commands.started == []


def test_the_run_of_an_earlier_version_is_used_where_it_is(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = Commands()
    dataset = Dataset.open(run.parent / "data")
    with monkeypatch.context() as earlier:
        earlier.setattr("neuroimagen.trainer.evaluation.drift_surrogate.ORIGINAL_KEY", "phantom_of")
        make_surrogate_run(run, dataset, run_commands=commands)
    former = (run / "controls" / "drift_surrogate").rename(run / "controls" / "phantom")
    written = {path: path.stat().st_mtime_ns for path in (former / "data").rglob("*")}
    commands.started.clear()
    assert make_surrogate_run(run, dataset, run_commands=commands) == former
    assert all(value_after(words, "--run") == str(former) for words in commands.started)
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert not (run / "controls" / "drift_surrogate").exists()
