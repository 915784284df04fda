"""Ranks of the true stimulus by similarity: against sorting, against chance, and CSLS against its equation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroimagen.trainer.evaluation.metrics.embedding_retrieval import csls, embedding_chance, embedding_values


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 30), st.integers(1, 20), st.integers(0, 1000))
def test_values_are_those_of_a_sorted_list(num_stimuli: int, num_queries: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    similarity = rng.standard_normal((num_queries, num_stimuli))
    columns = rng.integers(num_stimuli, size=num_queries)
    labels = rng.integers(3, size=num_stimuli)
    values = embedding_values(similarity, columns, labels[:, None] == labels[None], num_trials=3, seed=0)
    assert "embedding200_top1" not in values  # the same as among all
    for query, column in enumerate(columns):
        ranking = sorted(range(num_stimuli), key=lambda stimulus: -similarity[query, stimulus])
        rank = ranking.index(column) + 1
        assert values["embedding_mean_rank"][query] == rank
        assert values["embedding_top1"][query] == (rank == 1)
        assert values["embedding_top5"][query] == (rank <= 5)
        assert values["embedding_two_way"][query] == pytest.approx(1 - (rank - 1) / (num_stimuli - 1))
        own = [stimulus for stimulus in ranking if labels[stimulus] == labels[column]]
        within = values["embedding_within_class"][query]
        if len(own) == 1:
            assert np.isnan(within)
        else:
            assert within == pytest.approx(1 - own.index(column) / (len(own) - 1))


def test_ties_count_against_the_true_stimulus() -> None:
    similarity = np.array([[0.5, 0.5, 0.1]])
    values = embedding_values(similarity, np.array([0]), np.ones((3, 3), dtype=bool), num_trials=3, seed=0)
    assert values["embedding_top1"] == 0
    assert values["embedding_mean_rank"] == 2
    assert values["embedding_two_way"] == 0.75  # a tie is half


def test_random_similarities_are_at_chance_in_every_metric() -> None:
    rng = np.random.default_rng(1)
    labels = np.arange(400) % 10
    same_class = labels[:, None] == labels[None]
    columns = np.tile(np.arange(400), 10)
    similarity = rng.standard_normal((len(columns), 400))
    values = embedding_values(similarity, columns, same_class, num_trials=20, seed=0)
    chance = embedding_chance(same_class)
    assert values.keys() == chance.keys()
    for name, expected in chance.items():
        error = values[name].std() / np.sqrt(len(columns))
        assert values[name].mean() == pytest.approx(expected, abs=5 * error), name


def test_csls_is_its_equation() -> None:
    similarity = np.random.default_rng(2).standard_normal((7, 5))
    found = csls(similarity, neighbours=3)
    for i in range(7):
        for j in range(5):
            of_query = np.mean(sorted(similarity[i])[-3:])
            of_stimulus = np.mean(sorted(similarity[:, j])[-3:])
            assert found[i, j] == pytest.approx(2 * similarity[i, j] - of_query - of_stimulus)
