"""The diffusion stage's section of the recipe: what contradicts itself, the model, or its adapters is refused."""

from pathlib import Path
from typing import Any

import pytest
from tiny_families import build_tiny_unclip_folder, write_tiny_ip_adapter

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.batches.alignment_embeddings import NUM_FOLDS
from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.trainer.stages.base import CrossFit
from neuroimagen.trainer.stages.diffusion import DiffusionStage
from neuroimagen.trainer.stages.diffusion_config import DiffusionConfig
from neuroimagen.trainer.training.inputs import open_inputs

ADAPTER = ("diffusion.train=adapter", "model.ip_adapters={mine: {path: new, target: image}}")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adapters": ("a",)}, "adapters names the IP-Adapters that train: adapter or both"),
        ({"train": "adapter", "adapters": ()}, "adapters names the IP-Adapters"),
        ({"train": "both", "alignment_weight": 0.1}, "alignment_weight is for train: unet, not for train: both"),
        ({"initialise_from": None}, "initialise_from is null, which is for train: adapter alone, not for unet"),
        ({"train": "adapter", "fold_steps": 0}, "fold_steps must be at least 1"),
        ({"train": "adapter", "text_dropout": 0.9, "image_dropout": 0.1}, "less than 1 together, got 1.05"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiffusionConfig(**settings)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("diffusion.train=adapter",), "the model has no IP-Adapter. Name one in model.ip_adapters"),
        ((*ADAPTER, "diffusion.adapters=[other]"), "names other; the model has mine"),
        (("diffusion.train=adapter", "model.ip_adapters={a/b: {path: new}}"), "must have no /"),
        (
            (
                *("diffusion.train=adapter", "diffusion.adapters=[mine]"),
                "model.ip_adapters={mine: {path: new}, two: {path: new}}",
            ),
            r"model\.ip_adapters\.two is new, and diffusion\.adapters does not name it",
        ),
    ],
    ids=["none", "unknown", "no file name", "left untrained"],
)
def test_adapters_that_cannot_be_trained_are_named_before_data_are_read(
    words: tuple[str, ...], message: str, recipe_path: Path
) -> None:
    recipe = load_recipe(recipe_path, words)
    with pytest.raises(UserError, match=message):
        open_inputs(recipe, "diffusion")


def test_an_adapter_of_another_model_is_refused(recipe_path: Path, tiny_diffusion_folder: Path, tmp_path: Path) -> None:
    for width, size, message in (
        (48, 20, "attends to width 32"),
        (None, 24, "width 24; those of kind 'image' have 20"),
    ):
        file = write_tiny_ip_adapter(
            tmp_path / f"{size}.safetensors", tiny_diffusion_folder, embedding_size=size, width=width
        )
        words = ("diffusion.train=adapter", f"model.ip_adapters={{mine: {{path: '{file}', target: image}}}}")
        with pytest.raises(UserError, match=message.replace("have 20", "have width 20")):
            open_inputs(load_recipe(recipe_path, words), "diffusion")


def test_unclip_is_refused_by_name(recipe_path: Path, tmp_path: Path) -> None:
    model = build_tiny_unclip_folder(tmp_path / "unclip")
    with pytest.raises(UserError, match="takes an image embedding with its noise level beside"):
        open_inputs(load_recipe(recipe_path, [*ADAPTER, f"model.path={model}"]), "diffusion")


def test_predicted_embeddings_need_the_folds_and_the_alignment_stage() -> None:
    adapter = DiffusionConfig(train="adapter", fold_steps=7)
    assert DiffusionStage.cross_fit(adapter) == CrossFit(source="alignment", num_folds=NUM_FOLDS, steps=7)
    assert DiffusionStage.reads(adapter) == ("alignment",)
    naive = DiffusionConfig(train="both", embeddings="naive", alignment="runs/a/alignment")
    assert (DiffusionStage.cross_fit(naive), DiffusionStage.reads(naive)) == (None, ("runs/a/alignment",))
    for other in (DiffusionConfig(), DiffusionConfig(train="adapter", embeddings="stimulus")):
        assert (DiffusionStage.cross_fit(other), DiffusionStage.reads(other)) == (None, ())
