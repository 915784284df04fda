"""Permutation tests against enumeration, uniform under the null, and of images."""

import itertools

import numpy as np
import pytest

from neuroimagen.trainer.evaluation.metrics.identification import two_way_identification
from neuroimagen.trainer.evaluation.metrics.permutation_tests import (
    WITHIN_CLASS_P,
    identification_table,
    permutation_p,
    recognition_table,
)
from neuroimagen.trainer.evaluation.scoring.comparison import Comparison
from neuroimagen.trainer.evaluation.scoring.scoring import NUM_PERMUTATIONS, Scoring


def test_the_true_image_is_told_within_its_class_and_the_other_one_is_not(scoring: Scoring) -> None:
    """Each of six classes has two stimuli: a permutation within the classes leaves all in place once in 64."""
    images, columns = scoring.references.images, np.arange(12)
    p = WITHIN_CLASS_P.compute(Comparison(scoring, images, columns=columns))
    assert abs(p - 1 / 64) < 5 * np.sqrt(1 / 64 / NUM_PERMUTATIONS)
    others = scoring.references.same_class & ~np.eye(12, dtype=bool)
    partner = others.argmax(axis=1)
    assert WITHIN_CLASS_P.compute(Comparison(scoring, images, columns=columns, shown=partner)) == 1.0


def test_p_agrees_with_all_permutations() -> None:
    rng = np.random.default_rng(0)
    table = rng.integers(0, 4, size=(5, 5)).astype(float)
    observed = np.trace(table)
    exact = np.mean([table[np.arange(5), list(order)].sum() >= observed for order in itertools.permutations(range(5))])
    assert permutation_p(table, num_permutations=4000) == pytest.approx(exact, abs=0.04)


def test_permutations_stay_within_groups() -> None:
    table = np.eye(6)
    table[:3, 3:] = 100.0  # any exchange across the groups would score higher than what was observed
    assert permutation_p(table, np.array([0, 0, 0, 1, 1, 1]), num_permutations=2000) == pytest.approx(1 / 36, abs=0.015)


def test_p_is_uniform_when_nothing_is_there() -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(4), 10)
    shown = np.repeat(np.arange(40), 2)
    values = [
        permutation_p(recognition_table(rng.integers(0, 4, 80), shown, labels), seed=seed, num_permutations=200)
        for seed in range(200)
    ]
    assert np.mean(np.array(values) <= 0.05) <= 0.09
    assert 0.4 < np.mean(values) < 0.65


def test_tables_hold_the_observed_figure_on_their_diagonal() -> None:
    rng = np.random.default_rng(2)
    labels = np.repeat(np.arange(3), 4)
    shown = rng.integers(0, 12, size=50)
    predicted = rng.integers(0, 3, size=50)
    assert np.trace(recognition_table(predicted, shown, labels)) == (predicted == labels[shown]).sum()
    similarity = rng.normal(size=(50, 12)).round(1)  # with ties
    allowed = labels[shown][:, None] == labels[None]
    expected = two_way_identification(similarity, shown, allowed=allowed).sum()
    assert np.trace(identification_table(similarity, shown, labels)) == pytest.approx(expected)
