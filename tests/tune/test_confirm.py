"""The comparison of the best setting with the default: Student's interval, ranges, pairs of seeds, what is claimed."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroimagen.trainer.evaluation.metrics.registry import searchable_metrics
from neuroimagen.tune.config import MARGIN_OBJECTIVES, search_of
from neuroimagen.tune.confirm import best_trial, compare, confirmation_trials, range_of, student_interval
from neuroimagen.tune.records import TrialRecord

SPACE = {"reconstruct.guidance": {"low": 1.0, "high": 9.0}}
ONE = search_of({"space": SPACE}, "guidance", where="x")
TWO = search_of({"space": SPACE, "pareto": ["ssim", "two_way_clip"]}, "guidance", where="x")


def record(name: str, state: str = "finished", seed: int = 0, **figures: float) -> TrialRecord:
    return TrialRecord(name=name, values={}, seed=seed, state=state, figures=figures)  # type: ignore[arg-type]


@settings(deadline=None)
@given(values=st.lists(st.floats(-10, 10), min_size=2, max_size=9).filter(lambda v: np.std(v) > 1e-6))
def test_student_s_interval_is_scipy_s(values: list[float]) -> None:
    interval = student_interval(values)
    low, high = scipy.stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (interval.low, interval.high) == (pytest.approx(low), pytest.approx(high))


def test_intervals_stay_where_the_figure_can_be() -> None:
    """Two seeds have t(0.975; 1) = 12.7: as it stands, the interval of 70 and 90 % would reach from −47 to 207 %."""
    assert student_interval([0.7, 0.9]).high == pytest.approx(0.8 + 12.7062 * 0.1, abs=1e-4)
    clipped = student_interval([0.7, 0.9], within=(0.0, 1.0))
    assert (clipped.mean, clipped.low, clipped.high) == (pytest.approx(0.8), 0.0, 1.0)
    narrow = student_interval([0.70, 0.702], within=(0.0, 1.0))
    assert narrow == student_interval([0.70, 0.702])
    assert student_interval([0.7], within=(0.0, 1.0)).low is None


def test_every_objective_has_its_range() -> None:
    for name in searchable_metrics():
        pareto = search_of(
            {"space": SPACE, "pareto": [name, "ssim" if name != "ssim" else "accuracy"]}, "guidance", where="x"
        )
        assert range_of(pareto, name) == ((-1.0, 1.0) if name in ("ssim", "pixcorr") else (0.0, 1.0))
    for name in MARGIN_OBJECTIVES:
        margin = {"recipe": "r", "space": {"contrastive.margin": [0.1, 1.0]}, "objective": name}
        assert range_of(search_of(margin, "margin", where="x"), name) == (0.0, 1.0)
    weighted = search_of({"space": SPACE, "objective": {"ssim": 1.0, "accuracy": 3.0}}, "guidance", where="x")
    assert range_of(weighted, "objective") == (pytest.approx(-0.25), 1.0)


def test_a_comparison_of_two_seeds_stays_in_range_and_says_the_same() -> None:
    values = {"best": {1: 0.95, 2: 0.99}, "default": {1: 0.01, 2: 0.4}}
    done = [record(f"confirm/{who}-{seed}", seed=seed, x=x) for who, v in values.items() for seed, x in v.items()]
    free, found = compare(done, "x"), compare(done, "x", within=(0.0, 1.0))
    assert free is not None
    assert found is not None
    assert free.best.high > 1  # type: ignore[operator]
    assert (found.best.high, found.default.low, found.default.high) == (1.0, 0.0, 1.0)
    assert (found.difference.low, found.difference.high) == (-1.0, 1.0)
    assert free.difference.low < -1  # type: ignore[operator]
    assert found.verdict == free.verdict


def test_the_best_has_run_to_its_end_and_is_the_earliest_of_equals() -> None:
    records = [
        record("a", objective=0.5),
        record("b", objective=0.7),
        record("c", objective=0.7),
        record("d", "stopped", objective=0.9),
        record("e", "failed"),
    ]
    best = best_trial(records, ONE)
    assert best is not None
    assert best.name == "b"
    assert best_trial(records[3:], ONE) is None


def test_of_a_front_the_best_has_the_highest_scaled_mean() -> None:
    records = [
        record("a", ssim=0.10, two_way_clip=0.90),
        record("b", ssim=0.18, two_way_clip=0.86),
        record("c", ssim=0.20, two_way_clip=0.50),
        record("d", ssim=0.15, two_way_clip=0.60),
    ]
    best = best_trial(records, TWO)
    assert best is not None
    assert best.name == "b"


def test_best_and_default_are_compared_over_the_seeds_that_both_have() -> None:
    planned = confirmation_trials({"k": 1}, {"k": 2}, base_seed=3, num_seeds=2)
    assert [(item.name, item.seed, item.values["k"]) for item in planned] == [
        ("confirm/best-1003", 1003, 1),
        ("confirm/default-1003", 1003, 2),
        ("confirm/best-1004", 1004, 1),
        ("confirm/default-1004", 1004, 2),
    ]
    done = [
        record("confirm/best-1003", seed=1003, x=0.8),
        record("confirm/default-1003", seed=1003, x=0.5),
        record("confirm/best-1004", seed=1004, x=0.7),
        record("confirm/default-1004", seed=1004, x=0.42),
        record("confirm/best-1005", seed=1005, x=0.1),
        record("confirm/default-1005", "failed", seed=1005),
    ]
    found = compare(done, "x")
    assert found is not None
    assert found.seeds == (1003, 1004)
    assert found.difference.mean == pytest.approx(0.29)
    assert found.verdict == "better than the default"
    assert compare(done[4:], "x") is None
    noisy = [record("confirm/best-1", seed=1, x=0.5), record("confirm/default-1", seed=1, x=0.4)]
    noisy += [record("confirm/best-2", seed=2, x=0.4), record("confirm/default-2", seed=2, x=0.5)]
    undecided = compare(noisy, "x")
    assert undecided is not None
    assert undecided.verdict.startswith("not shown")
    single = compare(noisy[:2], "x")
    assert single is not None
    assert single.verdict.startswith("one new seed")
