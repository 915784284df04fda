"""Damaged checkpoints are named, and the next good one is taken."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.training.checkpoint_folder import (
    RunState,
    complete_checkpoints,
    latest_checkpoint,
    mark_complete,
    read_state,
    unusable_checkpoints,
)


def checkpoints(folder: Path) -> Path:
    for step in (1, 2, 3):
        made = folder / f"step-{step:08d}"
        (made / "network").mkdir(parents=True)
        save_file({"a": torch.ones(2)}, made / "network" / "rest.safetensors")
        state = RunState(step=step, engines={"network": {"step": step, "scaler": None}})
        (made / "state.json").write_text(json.dumps(vars(state)))
        mark_complete(made)
    (folder / "latest").write_text("step-00000003\n")
    return folder


def rewritten(content: bytes) -> Callable[[Path], None]:
    """Change state.json, and COMPLETE with it."""

    def change(newest: Path) -> None:
        (newest / "state.json").write_bytes(content)
        (newest / "COMPLETE").unlink()
        mark_complete(newest)

    return change


FIELDS = vars(RunState(step=3))
DAMAGES: dict[str, Callable[[Path], None]] = {
    "COMPLETE is a list": lambda newest: (newest / "COMPLETE").write_text("[]") and None,
    "COMPLETE is empty": lambda newest: (newest / "COMPLETE").write_text("{}") and None,
    "COMPLETE leads out": lambda newest: (newest / "COMPLETE").write_text('{"state.json": 1, "../x": 1}') and None,
    "COMPLETE is gone": lambda newest: (newest / "COMPLETE").unlink(),
    "a file is gone": lambda newest: (newest / "network" / "rest.safetensors").unlink(),
    "weights are overwritten": lambda newest: (newest / "network" / "rest.safetensors").write_bytes(
        b"\xff" * (newest / "network" / "rest.safetensors").stat().st_size
    ),
    "state is half": rewritten(b'{"version": 2, "st'),
    "state is a list": rewritten(b"[]"),
    "state has another field": rewritten(json.dumps({**FIELDS, "more": 1}).encode()),
    "state has an odd step": rewritten(json.dumps({**FIELDS, "step": "3"}).encode()),
    "state has odd engines": rewritten(json.dumps({**FIELDS, "engines": {"network": []}}).encode()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(damage: str, tmp_path: Path) -> None:
    folder = checkpoints(tmp_path)
    assert unusable_checkpoints(folder) == []
    DAMAGES[damage](folder / "step-00000003")
    assert latest_checkpoint(folder) == folder / "step-00000002"
    assert [path.name for path in complete_checkpoints(folder)] == ["step-00000001", "step-00000002"]
    (said,) = unusable_checkpoints(folder)
    assert str(folder / "step-00000003") in said
    assert "goes on from step-00000002" in said


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"../other", b"step-00000009", b"step-00000003" * 1000])
def test_a_damaged_pointer_gives_way_to_the_newest(content: bytes, tmp_path: Path) -> None:
    folder = checkpoints(tmp_path)
    (folder / "latest").write_bytes(content)
    assert latest_checkpoint(folder) == folder / "step-00000003"
    (said,) = unusable_checkpoints(folder)
    assert "does not name the newest" in said


def test_another_version_is_refused_and_no_older_one_takes_its_place(tmp_path: Path) -> None:
    folder = checkpoints(tmp_path)
    rewritten(json.dumps({**FIELDS, "version": 99}).encode())(folder / "step-00000003")
    newest = latest_checkpoint(folder)
    assert newest == folder / "step-00000003"
    with pytest.raises(UserError, match="state version 99"):
        read_state(newest)
