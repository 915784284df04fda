"""Numbers that users give: NaN and infinity do not get past any of the three ways in."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from neuroimagen.data_shards.common.numbers import count, finite_number, require_finite


@dataclass(frozen=True)
class Config:
    rate: float | None = 0.5
    betas: tuple[float, ...] = (0.9, 0.999)
    weights: Mapping[str, float] = field(default_factory=dict)
    name: str = "nan"
    steps: int = 10**400  # no float, and finite


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_field_that_is_or_holds_no_finite_number_is_named(number: float) -> None:
    require_finite(Config())
    require_finite(Config(rate=None, weights={"ssim": 1.0}))
    for name, value in (("rate", number), ("betas", (0.9, number)), ("weights", {"ssim": number})):
        with pytest.raises(ValueError, match=rf"^{name} must be a finite number, got {number}$"):
            require_finite(Config(**{name: value}))


def test_options_take_finite_numbers_only() -> None:
    assert [finite_number(text) for text in ("3", "-1.5", "2e-3")] == [3.0, -1.5, 0.002]
    for text in ("nan", "NaN", "inf", "-Infinity", "1e999", "", "1,5", "x"):
        with pytest.raises(argparse.ArgumentTypeError, match="is not a finite number"):
            finite_number(text)


def test_counts_are_whole_and_at_least_one() -> None:
    assert [count(text) for text in ("1", "64")] == [1, 64]
    for text in ("0", "-2", "1.5", "nan", "", "two"):
        with pytest.raises(argparse.ArgumentTypeError, match="is not a whole number of at least 1"):
            count(text)
