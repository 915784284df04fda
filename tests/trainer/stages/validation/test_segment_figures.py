"""Figures by segment: their file, their order, their means, and which run keeps them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.trainer.runs.run_folder import SEGMENT_FIGURES
from neuroimagen.trainer.stages.validation.segment_figures import SegmentFigures, joined


def figures(rows: list[int]) -> SegmentFigures:
    where = np.array(rows)
    return SegmentFigures(
        rows=where, stimuli=where // 3, values={"hit": (where % 2).astype(float), "mrr": 1 / (where + 1)}
    )


def test_they_are_read_as_written(tmp_path: Path) -> None:
    made = figures([5, 2, 9])
    made.write(tmp_path / "a.parquet")
    found = SegmentFigures.read(tmp_path / "a.parquet")
    assert (found.rows.tolist(), found.stimuli.tolist()) == ([5, 2, 9], [1, 0, 3])
    assert list(found.values) == ["hit", "mrr"]
    assert all(np.array_equal(found.values[name], made.values[name]) for name in made.values)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"cannot read .*a\.parquet"):
        SegmentFigures.read(tmp_path / "a.parquet")
    with pytest.raises(UserError, match="No such file"):
        SegmentFigures.read(tmp_path / "absent.parquet")


def test_means_order_and_parts() -> None:
    assert figures([1, 2, 3, 5]).means() == {"hit": 0.75, "mrr": pytest.approx((1 / 2 + 1 / 3 + 1 / 4 + 1 / 6) / 4)}
    whole = joined([figures([5, 2]), figures([9, 0])])
    assert whole.rows.tolist() == [5, 2, 9, 0]
    ordered = whole.sorted()
    assert (ordered.rows.tolist(), ordered.stimuli.tolist()) == ([0, 2, 5, 9], [0, 0, 1, 3])
    assert ordered.values["mrr"].tolist() == [1, 1 / 3, 1 / 6, 1 / 10]


@pytest.mark.parametrize("stage", ["contrastive", "alignment"])
def test_a_run_keeps_those_of_its_export(
    stage: str, train_here: Callable[..., Path], recipe_path: Path, tmp_path: Path
) -> None:
    """Their means are the figures that were logged at the step whose weights are exported."""
    steps = (f"{stage}.steps=6", f"{stage}.validate_every=2", f"{stage}.learning_rate=0.03")
    folder = train_here(recipe_path, stage, tmp_path / "run", *steps)
    found = SegmentFigures.read(folder / SEGMENT_FIGURES)
    dataset = Dataset.open(load_recipe(recipe_path).data.path or "")
    assert found.rows.tolist() == dataset.rows("val").tolist()
    assert np.array_equal(found.stimuli, dataset.index.stimulus[found.rows])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    validations = [line for line in lines if "val_accuracy" in line or "val_mrr" in line]
    assert len(validations) == 3
    best = max(validations, key=lambda line: line["val_mrr" if stage == "alignment" else "val_accuracy"])
    assert {f"val_{name}": value for name, value in found.means().items()} == {
        key: value for key, value in best.items() if key.startswith("val_")
    }
    assert sorted(path.name for path in (folder / "export").iterdir()) == ["config.json", "model.safetensors"]


def test_a_stage_without_them_leaves_none(train_here: Callable[..., Path], recipe_path: Path, tmp_path: Path) -> None:
    folder = train_here(recipe_path, "semantic", tmp_path / "run", "semantic.steps=2", "semantic.initialise_from=null")
    assert (folder / "export").is_dir()
    assert not (folder / SEGMENT_FIGURES).exists()
