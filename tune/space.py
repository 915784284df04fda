"""The space of a search: keys of the recipe, and the values that each of them may have."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from neuroimagen.data_shards.common.numbers import require_finite

Value = bool | int | float | str | None | dict[str, float]
"""The value of a key. Names with numbers are those of a key such as alignment.targets."""
Values = Mapping[str, Value]
"""Key of the recipe, or CONDITION → value: the setting of one trial."""
CONDITION = "condition"
"""The one key of a space that is not the recipe's: under which condition a guidance search's trial draws."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """The values of one key: a list of choices, or the numbers between two bounds."""

    choices: tuple[Value, ...] | None = None
    """Exactly these values. Samplers regard numbers in ascending order as ordered, and other values as unordered."""
    low: float | None = None
    high: float | None = None
    """Both bounds belong to the range."""
    log: bool = False
    """Values are spread evenly on a logarithmic scale."""
    whole: bool = False
    """Whole numbers only."""
    points: int | None = None
    """Number of evenly spaced values that a grid takes from the range."""

    def __post_init__(self) -> None:
        require_finite(self)
        if (self.choices is None) == (self.low is None) or (self.low is None) != (self.high is None):
            raise ValueError("give either choices, or low and high")
        if self.choices is not None:
            if not self.choices or len({repr(choice) for choice in self.choices}) < len(self.choices):
                raise ValueError("choices must be at least one value, and all different")
            if self.log or self.whole or self.points is not None:
                raise ValueError("log, whole and points belong to a range, not to choices")
            return
        low, high = self.bounds
        if not low < high or not math.isfinite(high - low):
            raise ValueError(f"low {low} must be below high {high}")
        if self.log and low <= 0:
            raise ValueError(f"a logarithmic range must begin above 0, not at {low}")
        if self.whole and not (low.is_integer() and high.is_integer()):
            raise ValueError(f"the bounds {low} and {high} are not whole numbers")
        if self.points is not None and self.points < 2:
            raise ValueError(f"a grid takes at least 2 points from a range, not {self.points}")

    @property
    def bounds(self) -> tuple[float, float]:
        """(low, high) of a range."""
        assert self.low is not None
        assert self.high is not None
        return float(self.low), float(self.high)

    @property
    def is_ordered(self) -> bool:
        """Whether the choices are numbers in ascending order."""
        values = self.choices or ()
        numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        return len(numbers) == len(values) > 0 and numbers == sorted(numbers)

    @property
    def is_range(self) -> bool:
        return self.choices is None

    def extremes(self) -> list[Value]:
        """Every choice, or both ends of the range: if these are valid, so are the values between them."""
        return list(self.choices) if self.choices is not None else [self.rounded(bound) for bound in self.bounds]

    def rounded(self, value: float) -> int | float:
        """A number as the recipe gets it: within the bounds, and a whole number if `whole`, else with six digits."""
        low, high = self.bounds
        value = min(max(value, low), high)
        # A bound of more digits would be left by rounding.
        return round(value) if self.whole else min(max(float(f"{value:.6g}"), low), high)

    def holds(self, value: Value) -> bool:
        """Whether this is a choice, or a number of the range."""
        if self.choices is not None:
            return any(type(value) is type(choice) and value == choice for choice in self.choices)
        kinds = (int,) if self.whole else (int, float)
        low, high = self.bounds
        return type(value) in kinds and low <= float(value) <= high  # type: ignore[arg-type]  # a number

    def grid(self) -> list[Value]:
        """The values that an exhaustive grid takes."""
        if self.choices is not None:
            return list(self.choices)
        if self.points is None:
            raise ValueError("a grid needs choices, or a range with `points`")
        low, high = self.bounds
        shares = [number / (self.points - 1) for number in range(self.points)]
        values = [low * (high / low) ** share if self.log else low + (high - low) * share for share in shares]
        return list(dict.fromkeys(self.rounded(value) for value in values))

    def position(self, value: Value) -> float:
        """Position of a value on the axis of a plot, from 0 to 1."""
        if self.choices is not None:
            return self.choices.index(value) / max(1, len(self.choices) - 1) if value in self.choices else 0.5
        assert isinstance(value, int | float)
        (low, high), number = self.bounds, float(value)
        if self.log:
            low, high, number = math.log(low), math.log(high), math.log(max(number, low))
        return min(max((number - low) / (high - low), 0.0), 1.0)

    def ticks(self) -> list[Value]:
        """The values that the axis of a plot names: every choice, or both ends of the range and its middle."""
        if self.choices is not None:
            return list(self.choices)
        low, high = self.bounds
        middle = (low * high) ** 0.5 if self.log else (low + high) / 2
        return [self.rounded(value) for value in (low, middle, high)]


Space = Mapping[str, Parameter]


def grid_points(space: Space) -> list[dict[str, Value]]:
    """Every combination of the parameters' grid values; the last key varies fastest."""
    keys = list(space)
    return [dict(zip(keys, values, strict=True)) for values in itertools.product(*(space[key].grid() for key in keys))]


def num_combinations(space: Space) -> int | None:
    """Number of settings in a space; None if it has a range of real numbers."""
    counts = []
    for parameter in space.values():
        if parameter.choices is not None:
            counts.append(len(parameter.choices))
        elif parameter.whole:
            low, high = parameter.bounds
            counts.append(int(high - low) + 1)
        else:
            return None
    return math.prod(counts)


def overrides(values: Mapping[str, Any]) -> list[str]:
    """Values as overrides of a recipe: ["contrastive.margin=0.5", …]. The condition is none of its keys."""
    return [f"{key}={yaml_line(value)}" for key, value in values.items() if key != CONDITION]


def value_at(tree: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key in a recipe as plain values."""
    value: Any = tree
    for name in key.split("."):
        value = value[name]
    return value


def yaml_line(value: Any) -> str:
    """A value as YAML in one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).splitlines()[0]


def label(values: Values) -> str:
    """A setting in one line: the keys without their sections, and their values."""
    return ", ".join(f"{key.rpartition('.')[2]} {show(value)}" for key, value in values.items())


def show(value: Value) -> str:
    """A value as tables and plots show it."""
    if isinstance(value, bool) or value is None:
        return str(value).lower() if value is not None else "null"
    if isinstance(value, dict):
        return " + ".join(f"{show(weight)} {name}" for name, weight in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
