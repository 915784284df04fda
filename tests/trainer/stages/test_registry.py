"""Every registered stage through one contract, and the order in which stages start from one another."""

from pathlib import Path

import pytest

from neuroimagen.launch import cli
from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.trainer.stages.registry import STAGES, stage_order
from neuroimagen.trainer.training.dry_run import dry_run

RECIPES = Path(cli.__file__).parent / "recipes"


@pytest.mark.parametrize("name", STAGES.names())
def test_a_recipe_at_real_sizes_runs_dry(name: str) -> None:
    """128 × 440 EEG; for `diffusion` the U-Net of Stable Diffusion 1.5, whose weights are not there."""
    overrides = ["encoder.kind=transformer"] if name == "masked" else []
    recipe = load_recipe(RECIPES / "eegcvpr40-sd15.yaml", overrides)
    result = dry_run(recipe, name, num_ranks=8)
    assert result.global_batch_size % 8 == 0
    trained = sum(size.trained for size in result.networks)
    assert 0 < trained <= sum(size.parameters for size in result.networks)
    assert result.activations_bytes > 0
    if name == "diffusion":
        (size,) = result.networks
        # Stable Diffusion 1.5's U-Net has 859,520,964 parameters.
        semantic = dry_run(recipe, "semantic", num_ranks=8).networks[0].parameters
        assert size.parameters == 859_520_964 + semantic
    assert recipe.stages[name].steps > 0


def test_a_stage_comes_after_those_that_it_can_start_from() -> None:
    order = stage_order()
    assert sorted(order) == sorted(STAGES.names())
    for name in order:
        for before in STAGES[name].after:
            assert order.index(before) < order.index(name)
        source = STAGES[name].starts_from(STAGES[name].Config())
        assert source is None or source in STAGES[name].after


@pytest.mark.parametrize("name", STAGES.names())
def test_a_stage_is_known_by_its_name_and_owns_its_configuration(name: str) -> None:
    stage = STAGES[name]
    assert stage.name == name
    assert stage.Config.__module__ in (stage.__module__, f"{stage.__module__}_config")  # its file, or the one beside it
    assert stage.selection.mode in ("max", "min")
