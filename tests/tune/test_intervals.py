"""Intervals over seeds and stimuli: closed forms, simulated coverage, and the case of seeds whose differences agree."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroimagen.tune.intervals import (
    counted_difference,
    counted_interval,
    crossed_interval,
    difference_range,
    largest_variance,
    student_interval,
)

WIDE = (-50.0, 50.0)
SHARE = (0.0, 1.0)


@settings(deadline=None)
@given(values=st.lists(st.floats(-10, 10), min_size=2, max_size=9).filter(lambda v: np.std(v) > 1e-6))
def test_student_s_interval_is_scipy_s(values: list[float]) -> None:
    interval = student_interval(values)
    low, high = scipy.stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (interval.low, interval.high) == (pytest.approx(low), pytest.approx(high))


def test_intervals_stay_where_the_figure_can_be() -> None:
    """Two seeds have t(0.975; 1) = 12.7: as it stands, the interval of 70 and 90 % would reach from −47 to 207 %."""
    assert student_interval([0.7, 0.9]).high == pytest.approx(0.8 + 12.7062 * 0.1, abs=1e-4)
    clipped = student_interval([0.7, 0.9], within=SHARE)
    assert (clipped.mean, clipped.low, clipped.high) == (pytest.approx(0.8), 0.0, 1.0)
    narrow = student_interval([0.70, 0.702], within=SHARE)
    assert narrow == student_interval([0.70, 0.702])
    assert student_interval([0.7], within=SHARE).low is None


def by_hand(cells: np.ndarray) -> float:
    """The half width of a table of S seeds × G stimuli from its mean squares, each a sum over all cells."""
    num_seeds, num_stimuli = cells.shape
    mean = cells.mean()
    seeds = stimuli = rest = 0.0
    for s in range(num_seeds):
        for g in range(num_stimuli):
            of_seed, of_stimulus = cells[s].mean() - mean, cells[:, g].mean() - mean
            seeds += of_seed**2 / (num_seeds - 1)
            stimuli += of_stimulus**2 / (num_stimuli - 1)
            rest += (cells[s, g] - mean - of_seed - of_stimulus) ** 2 / ((num_seeds - 1) * (num_stimuli - 1))
    t_seeds, t_stimuli = scipy.stats.t.ppf(0.975, num_seeds - 1), scipy.stats.t.ppf(0.975, num_stimuli - 1)
    square = t_seeds**2 * max(0.0, seeds - rest / 2) + t_stimuli**2 * max(stimuli, rest)
    return float(np.sqrt(square / (num_seeds * num_stimuli)))


@pytest.mark.parametrize("shape", [(2, 5), (3, 12), (5, 31)])
def test_the_interval_is_that_of_the_mean_squares(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(sum(shape))
    cells = rng.standard_normal(shape) + rng.standard_normal((shape[0], 1)) + rng.standard_normal((1, shape[1]))
    # Three segments of every stimulus, in any order, whose mean is the cell.
    parts = np.repeat(cells, 3, axis=1) + np.tile([-1.0, 0.25, 0.75], shape[1])
    stimuli, order = np.repeat(np.arange(shape[1]) * 7 + 2, 3), rng.permutation(3 * shape[1])
    found = crossed_interval(parts[:, order], stimuli[order], within=WIDE)
    assert (found.mean, found.n) == (pytest.approx(cells.mean()), shape[0])
    assert found.high == pytest.approx(cells.mean() + by_hand(cells))
    assert found.low == pytest.approx(cells.mean() - by_hand(cells))


def test_where_seeds_agree_it_is_student_s_over_stimuli_and_the_other_way_round() -> None:
    values = np.random.default_rng(1).standard_normal(9)
    over_stimuli = crossed_interval(np.tile(values, (4, 1)), np.arange(9), within=WIDE)
    low, high = scipy.stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (over_stimuli.low, over_stimuli.high) == (pytest.approx(low), pytest.approx(high))
    over_seeds = crossed_interval(np.tile(values[:, None], (1, 6)), np.arange(6), within=WIDE)
    assert (over_seeds.low, over_seeds.high) == (pytest.approx(low), pytest.approx(high))


def test_stimuli_weigh_as_much_as_their_segments() -> None:
    values, stimuli = np.array([[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]]), np.array([4, 4, 4, 9])
    assert crossed_interval(values, stimuli, within=SHARE).mean == pytest.approx(5 / 8)


def test_segments_of_a_stimulus_are_one_observation() -> None:
    """Each segment four times: nothing is known better by it."""
    values, stimuli = (np.random.default_rng(2).random((3, 20)) < 0.4).astype(float), np.arange(20)
    once = crossed_interval(values, stimuli, within=SHARE)
    often = crossed_interval(np.repeat(values, 4, axis=1), np.repeat(stimuli, 4), within=SHARE)
    assert (often.low, often.high) == (pytest.approx(once.low), pytest.approx(once.high))


def test_two_seeds_whose_differences_agree_do_not_make_an_interval_of_one_point() -> None:
    """160 segments, of which each seed gets one fewer right, but not the same one: −0.0063 with both."""
    differences = np.zeros((2, 160))
    differences[0, [3, 40, 41]], differences[1, [8, 90, 91]] = [1, -1, -1], [-1, 1, -1]
    assert student_interval(list(differences.mean(axis=1))).low == pytest.approx(-1 / 160)
    found = crossed_interval(differences, np.arange(160), within=(-1.0, 1.0))
    assert found.mean == pytest.approx(-1 / 160)
    assert found.low is not None
    assert found.high is not None
    assert found.low < -0.015
    assert found.high > 0.002
    counted = counted_difference([0.5, 0.6], [0.50625, 0.60625], num_stimuli=160, within=SHARE)
    assert counted.low is not None
    assert counted.high is not None
    assert counted.low < found.low < found.high < counted.high


def test_equal_outcomes_leave_what_few_stimuli_cannot_show() -> None:
    for value, low, high in ((1.0, 0.025 ** (1 / 8), 1.0), (0.0, 0.0, 1 - 0.025 ** (1 / 8))):
        found = crossed_interval(np.full((3, 8), value), np.arange(8), within=SHARE)
        assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
        assert scipy.stats.binomtest(int(8 * value), 8).proportion_ci().low == pytest.approx(low)
    same = crossed_interval(np.zeros((3, 8)), np.arange(8), within=(-1.0, 1.0))
    assert same.low == pytest.approx(-2 * (1 - 0.025 ** (1 / 8)))


@pytest.mark.parametrize("shape", [(1, 9), (3, 1)])
def test_one_seed_or_one_stimulus_has_no_interval(shape: tuple[int, int]) -> None:
    found = crossed_interval(np.full(shape, 0.25), np.arange(shape[1]), within=SHARE)
    assert (found.mean, found.low, found.high) == (0.25, None, None)


def test_the_variance_of_counts_is_the_binomial_one_with_four_observations_added() -> None:
    assert largest_variance(0.25, num_stimuli=40, within=SHARE) == pytest.approx((12 / 44) * (32 / 44) / 44)
    # Of values within [−1, 3] a mean of 0 is a quarter of the way.
    assert largest_variance(0.0, num_stimuli=40, within=(-1.0, 3.0)) == pytest.approx(16 * (12 / 44) * (32 / 44) / 44)
    assert largest_variance(1.0, num_stimuli=40, within=SHARE) > 0
    values = [0.4, 0.5, 0.45]
    student, found = student_interval(values), counted_interval(values, num_stimuli=40, within=SHARE)
    share = (0.45 * 40 + 2) / 44
    half = np.hypot(student.mean - (student.low or 0), 1.959964 * np.sqrt(share * (1 - share) / 44))
    assert (found.low, found.high) == (pytest.approx(0.45 - half), pytest.approx(0.45 + half))


def outcomes(
    rng: np.random.Generator, *, seeds: int, stimuli: int, segments: int, of_seed: float, of_stimulus: float
) -> tuple[np.ndarray, np.ndarray]:
    """Counts of two settings, right in 50 and 40 % of all cases, [2, seeds, stimuli], of `segments` of every stimulus.

    A probability varies by stimulus (the same for both), by setting and stimulus, and by setting and seed.
    """
    share = np.array([0.5, 0.4])[:, None, None] + 0.12 * rng.uniform(-1, 1, (1, 1, stimuli))
    share = share + of_stimulus * rng.uniform(-1, 1, (2, 1, stimuli)) + of_seed * rng.uniform(-1, 1, (2, seeds, 1))
    return rng.binomial(segments, share), share


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize(("stimuli", "segments"), [(24, 4), (120, 1), (60, 6)])
@pytest.mark.parametrize(("of_seed", "of_stimulus"), [(0.0, 0.0), (0.04, 0.1)])
def test_the_interval_covers_the_difference_of_simulated_binomials(
    seeds: int, stimuli: int, segments: int, of_seed: float, of_stimulus: float
) -> None:
    rng = np.random.default_rng(seeds + stimuli)
    covered, runs = {"difference": 0, "best": 0, "counted": 0}, 500
    shape = {"seeds": seeds, "stimuli": stimuli, "segments": segments}
    for _ in range(runs):
        counts, _ = outcomes(rng, **shape, of_seed=of_seed, of_stimulus=of_stimulus)
        shares, index = counts / segments, np.arange(stimuli)
        difference = crossed_interval(shares[0] - shares[1], index, within=(-1.0, 1.0))
        best = crossed_interval(shares[0], index, within=SHARE)
        first, second = (list(shares[setting].mean(axis=1)) for setting in (0, 1))
        counted = counted_difference(first, second, num_stimuli=stimuli, within=SHARE)
        for name, interval, truth in (("difference", difference, 0.1), ("best", best, 0.5), ("counted", counted, 0.1)):
            assert interval.low is not None
            assert interval.high is not None
            covered[name] += interval.low <= truth <= interval.high
    # With 500 runs the standard error of a share of 0.95 is 0.01; 0.955 to 0.988 were found with 2000.
    assert 0.92 <= covered["difference"] / runs <= 0.995
    assert 0.92 <= covered["best"] / runs <= 0.995
    assert covered["counted"] / runs >= 0.95


def test_the_range_of_a_difference() -> None:
    assert difference_range((-1.0, 1.0)) == (-2.0, 2.0)
    assert difference_range(SHARE) == (-1.0, 1.0)
