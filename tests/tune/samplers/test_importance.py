"""Importance: the share of the variance that a key explains, on an objective that is known."""

import pytest
from toy_search import run_toy, toy_search

from neuroimagen.tune.samplers.importance import importances


def test_importance_is_the_share_of_what_matters() -> None:
    search = toy_search(sampler="random")
    records = run_toy(search, 60, [])
    shares = importances(search, records, "knn_accuracy")
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares["contrastive.unit_norm"] < 0.1 < shares["contrastive.distance"]
    assert importances(search, records[:3], "knn_accuracy") == {}
