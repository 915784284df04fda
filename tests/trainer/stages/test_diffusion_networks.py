"""The networks of the diffusion stage: what is trained of them, and what they cannot be built without."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.trainer.training.build import build_stage
from neuroimagen.trainer.training.inputs import open_inputs

ADAPTER = ("diffusion.train=adapter", "model.ip_adapters={mine: {path: new, target: image}}")


def trained_of(recipe_path: Path, *overrides: str) -> set[str]:
    """Of an untrained stage's network, the parts of which something is trained."""
    recipe = load_recipe(recipe_path, overrides)
    stage = build_stage(recipe, "diffusion", open_inputs(recipe, "diffusion")[1])
    network: nn.Module = stage.networks["model"]
    parts = set()
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            is_adapter = "processor" in name or "encoder_hid_proj" in name
            parts.add("adapter" if is_adapter else "lora" if "lora" in name else name.partition(".")[0])
    return parts


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), {"unet", "semantic"}),
        (("diffusion.finetune_condition=false",), {"unet"}),
        (("diffusion.trained=lora",), {"lora", "semantic"}),
        (ADAPTER, {"adapter"}),
        (("diffusion.train=both", *ADAPTER[1:]), {"unet", "semantic", "adapter"}),
        (("diffusion.train=both", "diffusion.trained=lora", *ADAPTER[1:]), {"lora", "semantic", "adapter"}),
    ],
)
def test_what_is_trained_is_what_the_recipe_says(words: tuple[str, ...], expected: set[str], recipe_path: Path) -> None:
    assert trained_of(recipe_path, *words) == expected


def test_a_missing_alignment_stage_or_kind_is_named(
    recipe_path: Path, train_here: Callable[..., Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    recipe = load_recipe(recipe_path, ADAPTER)
    shapes = open_inputs(recipe, "diffusion")[1]
    with pytest.raises(UserError, match=r"alignment is not trained.*diffusion\.embeddings=stimulus"):
        build_stage(recipe, "diffusion", shapes, run=run)
    train_here(recipe_path, "alignment", run, "alignment.steps=2")
    other = load_recipe(
        recipe_path, ("diffusion.train=adapter", "model.ip_adapters={mine: {path: new, target: image-2}}")
    )
    two = dataclasses.replace(shapes, latents={**shapes.latents, "image-2": (20,)})
    with pytest.raises(UserError, match=r"takes image-2 embeddings, and .* predicts image"):
        build_stage(other, "diffusion", two, run=run)
