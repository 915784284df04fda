"""A copied run: another run's checkpoint, its log up to there, and a recipe of its own."""

import importlib.util
import json
from pathlib import Path

import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.recipe.recipe import Recipe, dump_recipe, load_recipe
from neuroimagen.trainer.runs.run_folder import StageFolder, open_stage_folder
from neuroimagen.trainer.training.checkpoint_folder import STATE_VERSION, latest_checkpoint, read_state
from neuroimagen.tune.trials.copied_run import copy_run


def write_run(run: Path, *steps: int) -> StageFolder:
    folder = StageFolder(run, "contrastive")
    for step in steps:
        path = folder.checkpoints / f"step-{step:08d}"
        (path / "encoder").mkdir(parents=True)
        (path / "encoder" / "weights.pt").write_bytes(bytes([step]) * 9)
        state = {"step": step, "best": 0.5, "best_step": 1, "world_size": 2, "data_digest": "d"}
        state["version"] = STATE_VERSION
        (path / "state.json").write_text(json.dumps(state))
        sizes = {"encoder/weights.pt": 9, "state.json": len(json.dumps(state))}
        (path / "COMPLETE").write_text(json.dumps(sizes))
    (folder.checkpoints / "latest").write_text(f"step-{steps[-1]:08d}\n")
    folder.metrics.write_text("".join(f'{{"step": {step}, "val_accuracy": 0.{step}}}\n' for step in range(1, 9)))
    folder.config.write_text(dump_recipe(Recipe()))
    return folder


def test_a_copied_run_can_be_trained_further(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 2, 4, 6)
    recipe = Recipe(seed=7)
    assert copy_run(tmp_path / "a", tmp_path / "b", recipe, stage="contrastive", step=5) == 4
    copied = StageFolder(tmp_path / "b", "contrastive")
    newest = latest_checkpoint(copied.checkpoints)
    assert newest is not None
    assert newest.name == "step-00000004"
    assert (newest / "encoder" / "weights.pt").read_bytes() == bytes([4]) * 9
    state = read_state(newest)
    assert (state.step, state.best, state.best_step, state.world_size) == (4, None, None, 2)
    assert [json.loads(line)["step"] for line in copied.metrics.read_text().splitlines()] == [1, 2, 3, 4]
    assert load_recipe(copied.config) == load_recipe(tmp_path / "b" / "config.yaml") == recipe
    open_stage_folder(copied, recipe, num_ranks=2, resume=True)  # no other recipe, nothing to refuse


def test_without_an_earlier_checkpoint_the_newest_serves_and_without_any_none(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 6)
    assert copy_run(tmp_path / "a", tmp_path / "b", Recipe(), stage="contrastive", step=3) == 6
    (tmp_path / "a" / "contrastive" / "checkpoints" / "step-00000006" / "COMPLETE").unlink()
    with pytest.raises(UserError, match="no checkpoint to continue from"):
        copy_run(tmp_path / "a", tmp_path / "c", Recipe(), stage="contrastive", step=3)
    assert not (tmp_path / "c").exists()


def test_the_stand_in_for_training_writes_checkpoints_that_can_be_copied(tmp_path: Path) -> None:
    """fake_train.py does not import the checkpoints' module, which takes seconds."""
    path = Path(__file__).parents[1] / "fake_train.py"
    spec = importlib.util.spec_from_file_location("fake_train", path)
    assert spec is not None
    assert spec.loader is not None
    fake = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fake)
    source = StageFolder(tmp_path / "a", "contrastive")
    source.checkpoints.mkdir(parents=True)
    source.metrics.write_text('{"step": 9}\n')
    fake.save(source.checkpoints, 9)
    assert copy_run(tmp_path / "a", tmp_path / "b", Recipe(), stage="contrastive", step=9) == 9
