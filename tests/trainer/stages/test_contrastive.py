"""The contrastive stage's validation figures against scikit-learn."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.format.schema import SPLITS
from neuroimagen.data_shards.loading.plan import BalancedPlan
from neuroimagen.trainer.stages.contrastive import centroid_hits, neighbour_hits, repeats_text


def clusters(num: int, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, size=num)
    centres = np.random.default_rng(9).normal(size=(5, 7))
    return torch.from_numpy(centres[labels] + 1.3 * rng.normal(size=(num, 7))), labels * 10


def test_one_neighbour_and_untied_votes_are_scikit_learn_s() -> None:
    (known, labels), (queries, truth) = clusters(211, 0), clusters(90, 1)
    reference = KNeighborsClassifier(1).fit(known, labels).predict(queries)
    assert neighbour_hits(known, labels, queries, truth, num_neighbours=1).mean() == accuracy_score(truth, reference)
    two = labels % 20  # two classes and an odd number of voters: no ties
    reference = KNeighborsClassifier(15).fit(known, two).predict(queries)
    share = neighbour_hits(known, two, queries, truth % 20, num_neighbours=15).mean()
    assert share == accuracy_score(truth % 20, reference)
    assert 0.5 < share < 1.0


def test_among_equally_many_votes_the_nearest_voter_decides() -> None:
    known = torch.tensor([[1.0], [2.0], [3.0], [4.0]]).double()
    query = torch.zeros(1, 1).double()
    for labels, winner in (([3, 8, 8, 3], 3), ([8, 3, 3, 8], 8), ([3, 8, 8, 8], 8)):
        assert neighbour_hits(known, np.array(labels), query, np.array([winner]), num_neighbours=4).mean() == 1.0


def test_fewer_segments_than_neighbours_all_vote() -> None:
    known, labels = torch.tensor([[0.0], [1.0]]), np.array([4, 4])
    assert neighbour_hits(known, labels, known, labels, num_neighbours=15).mean() == 1.0


Train = Callable[..., Path]


@pytest.mark.parametrize("num_neighbours", [1, 3])
def test_embeddings_that_are_not_numbers_are_no_hits(num_neighbours: int) -> None:
    """Neither as queries nor among the known ones, where the labels of the broken ones are those asked for."""
    known, labels = torch.arange(12.0).double()[:, None], np.repeat([0, 5], 6)
    broken = torch.full((12, 1), torch.nan).double()
    for where, asked in ((known, broken), (broken, known)):
        assert neighbour_hits(where, labels, asked, labels, num_neighbours=num_neighbours).mean() == 0.0
        assert centroid_hits(where, labels, asked, labels).mean() == 0.0
    one_broken = torch.cat([known, broken[:1]])
    several = np.append(labels, 0)
    assert neighbour_hits(one_broken, several, known, labels, num_neighbours=1).mean() == 1.0


def test_zero_shot_validation_compares_within_the_validation_part(
    train_here: Train, recipe_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two classes trained on and the two others held out, as THINGS-EEG2's split does with whole concepts."""
    opened = Dataset.open

    def zero_shot(*args: Any, **kwargs: Any) -> Dataset:
        dataset = opened(*args, **kwargs)
        split = np.where(dataset.index.label < 2, SPLITS.index("train"), SPLITS.index("val"))
        dataset.index = replace(dataset.index, split_code=split.astype(np.int8))
        return dataset

    monkeypatch.setattr(Dataset, "open", zero_shot)
    stage = train_here(recipe_path, "contrastive", tmp_path / "run", "contrastive.num_classes=2")
    lines = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    found = [line for line in lines if "val_accuracy" in line]
    assert len(found) == 2
    for line in found:
        for figure in ("val_accuracy", "val_knn_accuracy", "val_retrieval_top1"):
            assert 0.6 < line[figure] <= 1  # of two classes; held against the training part it would be 0
    with pytest.raises(UserError, match="zero-shot split"):
        train_here(recipe_path, "classifier", tmp_path / "other", "classifier.initialise_from=null")


def test_few_of_many_short_classes_are_named() -> None:
    labels = np.repeat(np.arange(30), np.arange(2, 32))
    plan = BalancedPlan(np.arange(len(labels)), labels, 4, 20, seed=0)
    text = repeats_text(plan, [f"c{label}" for label in range(30)])
    assert text is not None
    assert "18 of 30 classes" in text
    assert "c0 (2), c1 (3), c2 (4), c3 (5), c4 (6) and 13 more" in text
    assert repeats_text(BalancedPlan(np.arange(len(labels)), labels, 4, 2, seed=0), []) is None
