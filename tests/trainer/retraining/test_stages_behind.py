"""Which stages are trained again to train one of them again."""

from pathlib import Path

from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.trainer.retraining.stages_behind import stages_behind


def test_a_stage_brings_those_that_it_starts_from(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("seed: 1\n")
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert stages_behind(recipe, ["contrastive"]) == ["contrastive"]
    assert stages_behind(recipe, ["prior"]) == ["alignment", "prior"]
    assert stages_behind(recipe, ["semantic", "saliency"]) == ["contrastive", "saliency", "semantic"]
    chain = load_recipe(
        tmp_path / "recipe.yaml", ["contrastive.initialise_from=masked", "saliency.initialise_from=contrastive"]
    )
    assert stages_behind(chain, ["saliency"]) == ["masked", "contrastive", "saliency"]
    adapter = load_recipe(tmp_path / "recipe.yaml", ["diffusion.train=adapter", "diffusion.initialise_from=null"])
    assert stages_behind(adapter, ["diffusion"]) == ["alignment", "diffusion"]  # whose embeddings it reads
    # Another run's stage is there already, and from scratch nothing is behind.
    other = load_recipe(tmp_path / "recipe.yaml", ["semantic.initialise_from=runs/a/contrastive"])
    assert stages_behind(other, ["semantic"]) == ["semantic"]
