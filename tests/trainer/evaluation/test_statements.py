"""When a figure is above guessing, near it, or neither; verdict.py makes its statements of these."""

import pytest

from neuroimagen.trainer.evaluation.results import Result
from neuroimagen.trainer.evaluation.statements import (
    SIGNIFICANT,
    chance_of_classes,
    is_above,
    is_near,
    is_significant,
    percent,
    why_open,
)


def result(value: float, low: float | None = None, high: float | None = None, **changes: str) -> Result:
    names = {"condition": "full", "metric": "accuracy", "definition": "", **changes}
    return Result(value=value, low=low, high=high, n=9, **names)


def test_a_share_is_shown_with_its_interval_where_it_has_one() -> None:
    assert percent(result(0.314)) == "31 %"
    assert percent(result(0.314, 0.2, 0.456)) == "31 % (95 % interval 20 to 46 %)"


def test_above_means_the_whole_interval() -> None:
    assert is_above(result(0.4, 0.26, 0.5), 0.25)
    for other in (None, result(0.9), result(0.4, 0.25, 0.5)):
        assert not is_above(other, 0.25)


@pytest.mark.parametrize(
    ("level", "high", "near"),
    [
        (0.5, 0.6, True),  # a fifth of the way to certainty
        (0.5, 0.61, False),
        (0.02, 0.04, True),  # twice guessing
        (0.02, 0.05, False),
        (0.25, 0.1, True),
        (0.25, None, False),
    ],
)
def test_near_is_bounded_by_the_way_to_certainty_and_by_twice_guessing(
    level: float, high: float | None, near: bool
) -> None:
    assert is_near(result(0.1, 0.0, high), level) is near


def test_significance_asks_the_permutation_test_if_there_was_one() -> None:
    assert is_significant([], "full")
    assert is_significant([result(SIGNIFICANT / 2, metric="permutation_p")], "full")
    assert not is_significant([result(SIGNIFICANT, metric="permutation_p")], "full")
    assert is_significant([result(0.5, metric="permutation_p")], "semantic_only")  # of another condition


def test_the_reason_names_what_is_missing() -> None:
    p = result(0.04, metric="permutation_p")
    above, wide = result(0.6, 0.4, 0.8), result(0.3, 0.05, 0.8)
    assert why_open(above, 0.25, p=p, of=" of it") == (
        "The interval of it lies above guessing, but the permutation p is 0.0400, not below 0.01."
    )
    assert "from 5 to 80 %" in why_open(wide, 0.25, p=p)
    assert why_open(result(0.3), 0.25) == "There is no interval, so it is no evidence either way."


def test_guessing_from_the_eeg_s_classes_comes_first() -> None:
    plain, eeg = result(0.1, condition="chance"), result(0.2, condition="chance_eeg")
    assert chance_of_classes([plain, eeg]) is eeg
    assert chance_of_classes([plain]) is plain
    assert chance_of_classes([]) is None
