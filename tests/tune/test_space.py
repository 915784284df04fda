"""The values of a space: within bounds, as a recipe takes them, and every combination once in a grid."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.tune.space import Parameter, grid_points, num_combinations, overrides


@settings(deadline=None)
@given(
    low=st.floats(1e-6, 1e3),
    factor=st.floats(1.01, 1e6),
    value=st.floats(allow_nan=False, allow_infinity=False),
    log=st.booleans(),
)
def test_rounded_values_lie_between_the_bounds(low: float, factor: float, value: float, log: bool) -> None:
    parameter = Parameter(low=low, high=low * factor, log=log)
    rounded = parameter.rounded(value)
    assert parameter.bounds[0] <= rounded <= parameter.bounds[1]
    assert parameter.holds(rounded)
    assert 0.0 <= parameter.position(rounded) <= 1.0


def test_a_parameter_holds_its_choices_or_the_numbers_of_its_range() -> None:
    choices = Parameter(choices=(1, 0.5, "a", None, {"x": 1.0}))
    assert all(choices.holds(choice) for choice in choices.choices or ())
    assert not any(choices.holds(value) for value in (True, 1.0, 0, "b", {"x": 2.0}, {}))
    real, whole = Parameter(low=0.5, high=4.0), Parameter(low=1, high=4, whole=True)
    assert real.holds(0.5)
    assert real.holds(4)
    assert whole.holds(4)
    assert not any(real.holds(value) for value in (0.4, 4.1, math.nan, math.inf, True, "1", None, {"x": 1.0}))
    assert not any(whole.holds(value) for value in (0, 5, 2.0, True, None))


def test_a_grid_is_every_combination_and_ends_at_the_bounds() -> None:
    space = {
        "a": Parameter(low=0.01, high=1.0, log=True, points=3),
        "b": Parameter(choices=("x", None, True)),
        "c": Parameter(low=1, high=4, whole=True, points=2),
    }
    points = grid_points(space)
    assert len(points) == 18
    assert len({tuple(point.items()) for point in points}) == 18
    assert {point["a"] for point in points} == {0.01, 0.1, 1.0}
    assert {point["c"] for point in points} == {1, 4}
    assert num_combinations({key: space[key] for key in "bc"}) == 12
    assert num_combinations(space) is None


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, "either choices, or low and high"),
        ({"low": 0.1}, "either choices, or low and high"),
        ({"low": 0.1, "high": 1.0, "choices": (1,)}, "either choices, or low and high"),
        ({"low": 1.0, "high": 1.0}, "must be below"),
        ({"low": 0.0, "high": 1.0, "log": True}, "logarithmic"),
        ({"low": 0.5, "high": 3.0, "whole": True}, "not whole"),
        ({"choices": (1, 1)}, "differ"),
        ({"choices": (1, 2), "log": True}, "belong to a range"),
    ],
)
def test_an_invalid_parameter_is_refused(keys: dict, words: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=words):
        Parameter(**keys)


@settings(deadline=None)
@given(
    value=st.one_of(st.floats(1e-9, 1e9), st.integers(-5, 5), st.booleans(), st.none(), st.sampled_from(["1e3", "no"]))
)
def test_overrides_survive_yaml(value: object) -> None:
    import yaml

    (text,) = overrides({"contrastive.margin": value})
    key, _, rest = text.partition("=")
    assert key == "contrastive.margin"
    assert yaml.safe_load(rest) == value
    assert type(yaml.safe_load(rest)) is type(value)


def test_overrides_are_what_recipes_take(tmp_path: object) -> None:
    from pathlib import Path

    path = Path(str(tmp_path)) / "recipe.yaml"
    path.write_text("seed: 1\n")
    values = {"contrastive.margin": 1e-05, "contrastive.positives": "all", "encoder.feature_size": 64}
    recipe = load_recipe(path, overrides(values))
    assert (
        recipe.stages["contrastive"].margin,
        recipe.stages["contrastive"].positives,
        recipe.encoder.feature_size,
    ) == (1e-05, "all", 64)
