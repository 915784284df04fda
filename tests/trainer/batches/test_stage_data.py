"""The recipe's order of reading: which plan and which reader a stage gets."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from small_study import write_study

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.writing.repack import repack
from neuroimagen.trainer.batches.stage_data import BatchNeeds, OrderConfig, StageData
from neuroimagen.trainer.recipe.recipe import load_recipe


def stage_data(folder: Path, order: OrderConfig) -> StageData:
    dataset = Dataset.open(folder)
    return StageData(dataset, needs=BatchNeeds(), latents={}, subjects=None, device=torch.device("cpu"), order=order)


@pytest.fixture(scope="module")
def many_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A larger small study in shards of some 25 segments."""
    folder = tmp_path_factory.mktemp("many")
    repack(Dataset.open(write_study(folder / "study", num_stimuli=200)), folder / "data", shard_bytes=1 << 16)
    return folder / "data"


@pytest.mark.parametrize("kind", ["shuffled", "windowed", "resampled"])
def test_every_order_gives_full_batches_of_the_training_part(many_shards: Path, kind: str) -> None:
    data = stage_data(many_shards, OrderConfig(kind=kind, window_shards=2, num_streams=2, shuffle_buffer=20))  # type: ignore[arg-type]
    assert len(data.dataset.segments) >= 12
    rows = data.rows("train")
    plan = data.shuffled(rows, 5, 8)
    epochs = [[batch.rows for batch in data.reader(plan).epoch(epoch)] for epoch in (0, 1)]
    for batches in epochs:
        assert [len(batch) for batch in batches] == [8] * (len(rows) // 8)
        assert set(np.concatenate(batches).tolist()) <= set(rows.tolist())
    assert not np.array_equal(np.concatenate(epochs[0]), np.concatenate(epochs[1]))
    if kind == "resampled":
        return
    for batches in epochs:
        assert len(set(np.concatenate(batches).tolist())) == 8 * (len(rows) // 8), "a segment came twice"
    if kind == "windowed":
        # A stream's half of eight batches in a row is little more than a window: it touches few of the shards.
        halves = [np.concatenate([batch[:4] for batch in epochs[0][first : first + 8]]) for first in range(0, 24, 8)]
        assert max(len(set(data.dataset.index.shard[half].tolist())) for half in halves) <= 5


def test_a_part_that_is_not_there_is_told_from_subjects_that_are_not_in_it(
    many_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = stage_data(many_shards, OrderConfig())
    none = np.empty(0, dtype=np.int64)
    monkeypatch.setattr(data, "subjects", (1,))
    monkeypatch.setattr(data.dataset, "rows", lambda split, subjects=None: none if subjects else np.arange(3))
    with pytest.raises(UserError, match=r"no val segments for subjects \(1,\)"):
        data.rows("val")
    monkeypatch.setattr(data.dataset, "rows", lambda split, subjects=None: none)
    with pytest.raises(UserError, match="has no val split, and training needs one: make the data set again"):
        data.rows("val")


def test_too_few_segments_are_an_error_in_every_order(many_shards: Path) -> None:
    for kind in ("shuffled", "windowed"):
        data = stage_data(many_shards, OrderConfig(kind=kind))  # type: ignore[arg-type]
        with pytest.raises(UserError, match="do not fill a global batch of 1000"):
            data.shuffled(data.rows("train"), 0, 1000)


def test_a_stage_trains_in_the_recipe_s_order(
    train_here: Callable[..., Path], recipe_path: Path, tmp_path: Path
) -> None:
    few = ("semantic.initialise_from=null", "semantic.steps=4", "semantic.validate_every=4")
    exports = []
    for kind in ("shuffled", "windowed", "resampled"):
        stage = train_here(recipe_path, "semantic", tmp_path / kind, *few, f"data.order.kind={kind}")
        exports.append((stage / "export" / "model.safetensors").read_bytes())
    assert len(set(exports)) == 3
    with pytest.raises(UserError, match=r"order\.window_shards must be at least 1"):
        load_recipe(recipe_path, ["data.order.window_shards=0"])
