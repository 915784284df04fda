"""Checkpoints are whole or absent, and hold the step that they were begun at."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file
from small_engine import small_engine
from stage_files import logged, same_files

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.training import checkpoint, loop
from neuroimagen.trainer.training.checkpoint import Checkpoints
from neuroimagen.trainer.training.checkpoint_folder import (
    RunState,
    best_name,
    copy_checkpoint,
    latest_checkpoint,
    read_state,
)
from neuroimagen.trainer.training.process_group import ProcessGroup

Train = Callable[..., Path]


def write_checkpoints(folder: Path, *steps: int) -> None:
    """Checkpoints of a small network, two of which are kept, with a best export before each."""
    checkpoints = Checkpoints(folder, group=ProcessGroup(), keep=2)
    folder.mkdir(exist_ok=True)
    for step in steps:
        (folder / best_name(step)).mkdir()
        state = RunState(step=step, best=1.0, best_step=step, data_digest="d")
        checkpoints.save(state, {"network": small_engine(0)}, {})
    checkpoints.commit()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_are_kept_with_the_exports_that_they_need(one_rank: None, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    write_checkpoints(folder, 10, 20, 30)
    kept = ["best-00000020", "best-00000030", "latest", "step-00000020", "step-00000030"]
    assert names(folder) == kept
    state = read_state(folder / "step-00000030")
    assert (state.step, state.best_step, state.data_digest) == (30, 30, "d")
    assert latest_checkpoint(folder) == folder / "step-00000030"
    assert latest_checkpoint(folder, not_beyond=29) == folder / "step-00000020"
    assert latest_checkpoint(folder, not_beyond=10) is None


def test_one_that_is_not_whole_does_not_count(one_rank: None, tmp_path: Path) -> None:
    """Whatever `latest` says; the newest whole one is taken."""
    folder = tmp_path / "checkpoints"
    write_checkpoints(folder, 10, 20)
    newest = folder / "step-00000020"
    content = (newest / "state.json").read_bytes()
    (newest / "state.json").write_bytes(content[:-1])
    assert latest_checkpoint(folder) == folder / "step-00000010"
    (newest / "state.json").write_bytes(content)
    assert latest_checkpoint(folder) == newest
    (newest / "COMPLETE").unlink()
    assert latest_checkpoint(folder) == folder / "step-00000010"
    assert latest_checkpoint(tmp_path) is None


def test_what_an_interrupted_one_left_is_removed(one_rank: None, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    write_checkpoints(folder, 10)
    (folder / ".step-00000015.part").mkdir()
    write_checkpoints(folder, 20)
    assert not [name for name in names(folder) if name.startswith(".")]


def test_a_copy_is_whole_and_has_no_best_figure(one_rank: None, tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "first", 10)
    (tmp_path / "second").mkdir()
    copied = copy_checkpoint(tmp_path / "first" / "step-00000010", tmp_path / "second")
    assert latest_checkpoint(tmp_path / "second") == copied
    state = read_state(copied)
    assert (state.step, state.best, state.best_step) == (10, None, None)
    assert read_state(tmp_path / "first" / "step-00000010").best == 1.0


def test_another_version_s_state_is_refused(one_rank: None, tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "checkpoints", 10)
    path = tmp_path / "checkpoints" / "step-00000010" / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 1}))
    with pytest.raises(UserError, match="has state version 1; this neuroimagen reads 2"):
        read_state(path.parent)


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_a_checkpoint_holds_the_step_it_was_begun_at_however_long_it_takes_to_write(
    zero_stage: int, train_here: Train, recipe_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three steps are taken while the checkpoint of step 3 is on its way to the disk."""
    common = ("semantic.initialise_from=null", "semantic.ema_decay=0.8", f"semantic.zero_stage={zero_stage}")
    common += ("semantic.steps=8", "semantic.validate_every=3", "semantic.checkpoint_every=3")
    whole = train_here(recipe_path, "semantic", tmp_path / "whole", *common)
    may_write = threading.Event()

    def late(*args: Any, **kwargs: Any) -> None:
        assert may_write.wait(120)
        save_file(*args, **kwargs)

    def until_six(*args: Any, **kwargs: Any) -> Any:
        if args[4] == 6:
            raise KeyboardInterrupt
        figures = real(*args, **kwargs)
        if args[4] == 5:
            may_write.set()
        return figures

    real = loop.train_step
    monkeypatch.setattr(loop, "train_step", until_six)
    monkeypatch.setattr(checkpoint, "save_file", late)
    with pytest.raises(KeyboardInterrupt):
        train_here(recipe_path, "semantic", tmp_path / "run", *common)
    monkeypatch.undo()
    for thread in threading.enumerate():
        if thread.name == "neuroimagen-checkpoint":
            thread.join()
    newest = latest_checkpoint(tmp_path / "run" / "semantic" / "checkpoints")
    assert newest is not None
    assert read_state(newest).step == 3
    resumed = train_here(recipe_path, "semantic", tmp_path / "run", *common, resume=True)
    assert same_files(resumed / "export", whole / "export")
    assert logged(resumed) == logged(whole)


def test_too_little_room_is_seen_before_anything_is_written(
    train_here: Train, recipe_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"takes up to .* MB, and 0\.0 MB are free.* No earlier one exists"):
        train_here(recipe_path, "contrastive", tmp_path / "run")
