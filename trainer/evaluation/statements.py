"""What a statement of the verdict is, and when a figure is above guessing, near it, or neither."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from neuroimagen.trainer.evaluation.results import Result, find

Tone = Literal["good", "plain", "warning"]
LITTLE, MOST = 0.2, 0.5
"""Shares of a result up to which drift explains little, and beyond which it explains most."""
SIGNIFICANT = 0.01
"""Level of the permutation tests."""


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One statement of the verdict. The tone is that of the page: good, plain or warning."""

    heading: str
    text: str
    tone: Tone


def percent(found: Result) -> str:
    """A share with its interval, as percentages."""
    if found.low is None or found.high is None:
        return f"{100 * found.value:.0f} %"
    return f"{100 * found.value:.0f} % (95 % interval {100 * found.low:.0f} to {100 * found.high:.0f} %)"


def is_above(found: Result | None, level: float) -> bool:
    """Whether the whole interval lies above `level`."""
    return found is not None and found.low is not None and found.low > level


def is_near(found: Result, level: float) -> bool:
    """Whether even the upper end of the interval is near `level`, that of guessing.

    Near is at most a fifth of the way from there to 1, and at most twice guessing, which is less for many classes.
    """
    return found.high is not None and found.high - level <= min(LITTLE * (1 - level), level)


def is_significant(results: Sequence[Result], condition: str, metric: str = "permutation_p") -> bool:
    """Whether the condition's permutation p is below SIGNIFICANT; True if there was no such test."""
    p = find(results, condition, metric)
    return p is None or p.value < SIGNIFICANT


def why_open(found: Result, level: float, *, p: Result | None = None, of: str = "") -> str:
    """Why a figure is neither above guessing, the `level`, nor shown to be near it; `p`: of its permutation test."""
    if p is not None and is_above(found, level):
        return f"The interval{of} lies above guessing, but the permutation p is {p.value:.4f}, not below {SIGNIFICANT}."
    if found.low is None or found.high is None:
        return f"There is no interval{of}, so it is no evidence either way."
    reach = f"from {100 * found.low:.0f} to {100 * found.high:.0f} %"
    return f"The interval{of} reaches {reach}: no evidence for it, and none against it."


def chance_of_classes(results: Sequence[Result]) -> Result | None:
    """The accuracy of guessing one of the data set's classes."""
    return find(results, "chance_eeg", "accuracy") or find(results, "chance", "accuracy")
