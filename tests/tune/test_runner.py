"""The default setting that the best one is compared with. How trials are run is tested in test_search.py."""

from neuroimagen.trainer.recipe.recipe import Recipe
from neuroimagen.tune.runner import value_of


def test_the_default_setting_is_that_of_the_recipe() -> None:
    recipe = Recipe(seed=4)
    assert value_of(recipe, "seed") == 4
    assert value_of(recipe, "contrastive.margin") == recipe.stages["contrastive"].margin
    assert value_of(recipe, "encoder.kind") == recipe.encoder.kind
    assert value_of(recipe, "reconstruct.guidance") == recipe.reconstruct.guidance
