"""The verdict on drift, on figures made for the purpose."""

import pytest

from neuroimagen.trainer.evaluation.results import Result
from neuroimagen.trainer.evaluation.verdict import verdict


def accuracy(condition: str, value: float, low: float | None = None, high: float | None = None) -> Result:
    return Result(condition=condition, metric="accuracy", value=value, low=low, high=high, n=16, definition="")


def headings(*results: Result) -> list[str]:
    return [sentence["heading"] for sentence in verdict(results)]


@pytest.mark.parametrize(
    ("time", "heading"),
    [
        ((0.08, 0.06, 0.11), "Drift is ruled out by the design"),
        ((0.3, 0.05, 0.6), "Too few test segments to rule drift out"),
        ((0.6, 0.4, 0.8), "Most of this could be slow drift"),
    ],
)
def test_drift_is_ruled_out_by_a_narrow_interval_only(time: tuple[float, float, float], heading: str) -> None:
    figures = [
        accuracy("chance", 1 / 12),
        accuracy("full", 0.7, 0.6, 0.8),
        accuracy("mean_slope_only", 0.5, 0.3, 0.7),
        accuracy("time_index_only", *time),
    ]
    assert heading in headings(*figures)


@pytest.mark.parametrize(
    ("slow", "heading"),
    [((0.52, 0.48, 0.56), "Little room for drift"), ((0.9, 0.85, 0.95), "Drift cannot be ruled out")],
)
def test_with_two_classes_the_slow_part_can_tell_all_of_it(slow: tuple[float, float, float], heading: str) -> None:
    """Twice chance is certainty with two classes, which no figure exceeds."""
    figures = [
        accuracy("chance", 1 / 2),
        accuracy("linear_decoder", 0.95, 0.9, 0.99),
        accuracy("mean_slope_only", *slow),
    ]
    assert headings(*figures) == [heading]


def test_with_drift_surrogates_a_wide_interval_gives_drifts_share() -> None:
    figures = [
        accuracy("chance", 1 / 12),
        accuracy("linear_decoder", 0.7, 0.6, 0.8),
        accuracy("mean_slope_only", 0.5, 0.3, 0.7),
        accuracy("time_index_only", 0.3, 0.05, 0.6),
        accuracy("drift_surrogate_linear_decoder", 0.4, 0.3, 0.5),
    ]
    (sentence,) = verdict(figures)
    assert sentence["text"].startswith("Too few test segments to tell whether the order")
    assert "drift alone could explain 51 %" in sentence["text"]


def test_where_nothing_is_above_guessing_there_is_nothing_to_put_down_to_drift() -> None:
    figures = [
        accuracy("chance", 1 / 12),
        accuracy("full", 0.1, 0.05, 0.15),
        accuracy("linear_decoder", 0.1, 0.05, 0.2),
        accuracy("mean_slope_only", 0.1, 0.05, 0.2),
        accuracy("time_index_only", 0.1, 0.05, 0.2),
    ]
    assert headings(*figures) == ["The class does not come through"]
