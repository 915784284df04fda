"""The value of a trial, and the Pareto front compared with its definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroimagen.trainer.stages.base import Selection
from neuroimagen.tune.config import GuidanceSearch, search_of
from neuroimagen.tune.trials.objective import (
    Validation,
    combined,
    objective_values,
    objectives_by_segment,
    pareto_front,
    selected,
    statement,
    validation_of,
)

SELECTION = Selection("accuracy", "max")


def test_only_validations_are_read_from_the_log() -> None:
    assert validation_of({"step": 10, "loss": 0.5}) is None
    found = validation_of({"step": 10, "val_accuracy": 0.5, "val_knn_accuracy": 0.25})
    assert found == Validation(step=10, figures={"accuracy": 0.5, "knn_accuracy": 0.25})


def test_a_trial_has_the_value_of_its_export() -> None:
    curve = [
        Validation(step=step, figures={"accuracy": accuracy, "knn_accuracy": knn})
        for step, accuracy, knn in ((1, 0.2, 0.9), (2, 0.6, 0.3), (3, 0.6, 0.8), (4, 0.5, 0.7))
    ]
    assert selected(curve, SELECTION).step == 2  # the loop keeps the first of equals
    assert selected(curve[:1], SELECTION).figures["knn_accuracy"] == 0.9


def test_the_objective_is_the_weighted_mean() -> None:
    assert combined({"a": 1.0, "b": 0.25, "c": 9.0}, {"a": 1.0, "b": 3.0}) == pytest.approx(0.4375)


def test_the_objectives_of_a_guidance_search_have_names_and_words() -> None:
    figures = {"ssim": 0.25, "accuracy": 1.0, "two_way_clip": 0.5}
    space = {"reconstruct.guidance": {"low": 1.0, "high": 9.0}}
    weighted = search_of({"space": space, "objective": {"ssim": 3.0, "accuracy": 1.0}}, "guidance", where="x")
    pareto = search_of({"space": space, "pareto": ["ssim", "two_way_clip"]}, "guidance", where="x")
    assert isinstance(weighted, GuidanceSearch)
    assert isinstance(pareto, GuidanceSearch)
    assert objective_values(figures, weighted) == {"objective": pytest.approx(0.4375)}
    assert statement(weighted) == "0.75 · ssim + 0.25 · accuracy"
    assert objective_values(figures, pareto) == {"ssim": 0.25, "two_way_clip": 0.5}
    values = {"ssim": np.array([0.0, 0.5]), "accuracy": np.array([1.0, 1.0]), "two_way_clip": np.array([0.25, 0.75])}
    assert objectives_by_segment(values, weighted)["objective"].tolist() == [0.25, 0.625]  # their mean is 0.4375
    assert {name: value.mean() for name, value in objectives_by_segment(values, pareto).items()} == {
        "ssim": 0.25,
        "two_way_clip": 0.5,
    }
    assert statement(pareto) == "the Pareto front of ssim and two_way_clip"


@settings(deadline=None)
@given(points=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=25))
def test_the_front_is_what_nothing_dominates(points: list[tuple[int, int]]) -> None:
    front = pareto_front([(float(x), float(y)) for x, y in points])

    def dominated(p: tuple[int, int]) -> bool:
        return any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points)

    assert {points[place] for place in front} == {p for p in points if not dominated(p)}
    assert len({points[place] for place in front}) == len(front)
