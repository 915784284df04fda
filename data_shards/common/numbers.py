"""Numbers as users give them: NaN and infinity are refused where they enter, because every comparison lets them pass.

`value < 1` is False for NaN, so a check written that way accepts it.
"""

import argparse
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, TypeGuard

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def require_finite(config: "DataclassInstance") -> None:
    """Raise ValueError naming the first field of a configuration that is NaN or infinite, or holds such a number."""
    for field in fields(config):
        value = getattr(config, field.name)
        values = list(value.values()) if isinstance(value, Mapping) else value
        for number in values if isinstance(values, list | tuple) else (values,):
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError(f"{field.name} must be a finite number, got {number}")


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a value of JSON is a whole number that 64 bits hold; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value of JSON is a number, whole or not, within floating point."""
    return is_whole(value) or isinstance(value, float)


def finite_number(text: str) -> float:
    """An option's value: a number that is neither NaN nor infinite."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return value


def count(text: str) -> int:
    """An option's value: a whole number, at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value
