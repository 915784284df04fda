"""What a stage reads, and its comparison with what the recipe expects."""

from pathlib import Path

import pytest
from small_study import N_CHANNELS, N_SAMPLES, NUM_CLASSES

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.trainer.stages.registry import STAGES
from neuroimagen.trainer.training.inputs import expected_shapes, latent_kinds, open_inputs

SIZES = [f"data.n_channels={N_CHANNELS}", f"data.n_samples={N_SAMPLES}", f"data.num_classes={NUM_CLASSES}"]


@pytest.mark.parametrize("name", STAGES.names())
def test_sizes_are_those_of_the_data_set_and_the_latents(recipe_path: Path, name: str) -> None:
    recipe = load_recipe(recipe_path, ["diffusion.alignment_weight=0.1"])
    dataset, shapes, latents = open_inputs(recipe, name)
    assert (shapes.n_channels, shapes.n_samples, shapes.num_classes) == (N_CHANNELS, N_SAMPLES, NUM_CLASSES)
    assert shapes.subjects == (1, 2)
    assert tuple(latents) == latent_kinds(recipe, name)
    for kind, store in latents.items():
        assert shapes.of_latent(kind) == store.metadata.shape
    if name == "diffusion":
        assert (shapes.latent_shape, shapes.of_latent("image"), shapes.text_shape) == ((4, 8, 8), (20,), (24, 32))
    if name == "semantic":
        assert shapes.text_shape == (24, 32)
    assert len(dataset) == 128


@pytest.mark.parametrize(
    ("stage", "words", "message"),
    [
        ("contrastive", "data.n_channels=9", rf"has n_channels {N_CHANNELS}, the recipe's data\.n_channels is 9"),
        ("contrastive", "data.path=null", "the recipe names no data set"),
        (
            "semantic",
            "model.text_shape=[77, 768]",
            r"text_shape \[24, 32\], the recipe's model\.text_shape is \[77",
        ),
        ("diffusion", "model.latent_shape=[4, 64, 64]", r"for latent_shape \[4, 8, 8\], the recipe's"),
        ("semantic", "semantic.target=text-blip", "text-blip"),
    ],
)
def test_what_differs_or_is_missing_is_named(recipe_path: Path, stage: str, words: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_inputs(load_recipe(recipe_path, [words]), stage)


def test_a_subset_of_subjects_is_the_recipe_s(recipe_path: Path) -> None:
    _, shapes, _ = open_inputs(load_recipe(recipe_path, ["data.subjects=[2]"]), "contrastive")
    assert shapes.subjects == (2,)


def test_a_dry_run_takes_sizes_from_the_recipe_then_from_what_it_names(recipe_path: Path, tmp_path: Path) -> None:
    from_data = expected_shapes(load_recipe(recipe_path), "diffusion")
    assert (from_data.n_channels, from_data.latent_shape, from_data.text_shape) == (N_CHANNELS, (4, 8, 8), (24, 32))
    absent = f"data.path={tmp_path}"
    said = expected_shapes(load_recipe(recipe_path, [absent, *SIZES, "model.latent_shape=[4, 16, 16]"]), "diffusion")
    assert (said.n_samples, said.latent_shape, said.subjects) == (N_SAMPLES, (4, 16, 16), None)
    with pytest.raises(UserError, match=r"needs data\.n_channels, data\.num_classes in the recipe"):
        expected_shapes(load_recipe(recipe_path, [absent, SIZES[1]]), "contrastive")
