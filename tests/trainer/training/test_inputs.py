"""What a stage reads, and its comparison with what the recipe expects."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from small_study import N_CHANNELS, N_SAMPLES, NUM_CLASSES, write_study
from tiny_families import write_tiny_ip_adapter

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.latent_cache.cache import LatentCache
from neuroimagen.launch.jobs.train import untrained_text
from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder
from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.trainer.stages.registry import STAGES
from neuroimagen.trainer.training.build import build_stage
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
        ("contrastive", "data.sfreq=99", r"has sfreq 100, the recipe's data\.sfreq is 99"),
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


@pytest.fixture
def dino_recipe(
    recipe_path: Path, study_folder: Path, tiny_tower: Callable[[str], Path], tmp_path: Path
) -> tuple[Path, Path]:
    """A recipe whose alignment stage has a tower of the user's name for its target, and its data with that tower's
    latents.
    """
    data, path = shutil.copytree(study_folder, tmp_path / "data"), tmp_path / "dino.yaml"
    tower = {"path": str(tiny_tower("dinov2")), "layer": 0.67, "pool": "mean"}
    tree = yaml.safe_load(recipe_path.read_text())
    tree["data"]["path"] = str(data)
    tree["model"]["towers"] = {"dino": tower}
    tree["alignment"]["targets"] = {"dino": 1.0}
    path.write_text(yaml.safe_dump(tree))
    return path, data


def test_a_tower_of_the_recipe_is_found_by_its_configuration(dino_recipe: tuple[Path, Path]) -> None:
    path, data = dino_recipe
    recipe = load_recipe(path)
    with pytest.raises(UserError, match=r"no dino latents of .*--towers dino=.*:layer=0\.67,pool=mean --kinds dino"):
        open_inputs(recipe, "alignment")
    LatentCache(Dataset.open(data), None, towers=recipe.model.towers).cache("dino")
    _, shapes, latents = open_inputs(recipe, "alignment")
    assert tuple(latents) == ("dino",)
    assert shapes.of_latent("dino") == (32,)
    with pytest.raises(UserError, match="no dino latents"):  # those of another layer are not served
        open_inputs(load_recipe(path, ["model.towers.dino.layer=0.34"]), "alignment")
    with pytest.raises(UserError, match=r"latent kind 'dinno' is not one of .*, dino\..*model\.towers"):
        open_inputs(load_recipe(path, ["alignment.targets={dinno: 1.0}"]), "alignment")
    assert load_recipe(path).model.towers == {"dino": recipe.model.towers["dino"]}


def test_a_wrong_setting_of_a_tower_is_named_when_the_recipe_is_read(dino_recipe: tuple[Path, Path]) -> None:
    path, _ = dino_recipe
    for override, said in (
        ("model.towers.dino.lair=0.5", r"did you mean 'model\.towers\.dino\.layer'"),
        ("model.towers.dino.layer=2", r"layer is a depth in \(0, 1\]"),
        ("model.towers.dino.view=foveal", "expected one of fovea, blur"),
    ):
        with pytest.raises(UserError, match=said):
            load_recipe(path, [override])


def test_a_dry_run_reads_the_sizes_of_towers_from_configurations(dino_recipe: tuple[Path, Path]) -> None:
    path, _ = dino_recipe  # nothing is cached
    assert expected_shapes(load_recipe(path), "alignment").of_latent("dino") == (32,)
    both = load_recipe(path, ["alignment.targets={image: 1.0, pooled-class: 0.5}"])
    shapes = expected_shapes(both, "alignment")
    assert (shapes.of_latent("image"), shapes.of_latent("pooled-class")) == ((20,), (32,))
    # Without the model folder, the recipe's own numbers.
    words = ["model.path=nowhere", "model.text_shape=[77, 768]", "model.embedding_size=512"]
    shapes = expected_shapes(
        load_recipe(path, [*words, "alignment.targets={image: 1.0, pooled-class: 0.5}"]), "alignment"
    )
    assert (shapes.of_latent("image"), shapes.of_latent("pooled-class")) == ((512,), (768,))
    shapes = expected_shapes(
        load_recipe(path, [*words, "model.towers={image: {view: fovea}}", "alignment.targets={image: 1}"]), "alignment"
    )
    assert shapes.of_latent("image") == (512,)
    with pytest.raises(UserError, match="holds no DINOv2"):
        expected_shapes(
            load_recipe(path, ["model.towers.dino.tower=dinov2", f"model.towers.dino.path={path.parent}"]), "alignment"
        )


def test_the_pooled_state_is_asked_for_where_the_u_net_takes_one(recipe_path: Path, tiny_sdxl_folder: Path) -> None:
    path = f"model.path={tiny_sdxl_folder}"
    sdxl, plain = load_recipe(recipe_path, [path]), load_recipe(recipe_path)
    assert latent_kinds(plain, "semantic") == ("text-class",)
    assert latent_kinds(sdxl, "semantic") == ("text-class", "pooled-class")
    assert latent_kinds(sdxl, "semantic_detailed") == ("text-detailed", "pooled-detailed")
    shapes = expected_shapes(sdxl, "semantic")
    assert (shapes.text_shape, shapes.pooled_size) == ((24, 40), 12)
    assert expected_shapes(plain, "semantic").pooled_size is None
    with pytest.raises(UserError, match=r"no (text|pooled)-class latents"):
        open_inputs(sdxl, "semantic")
    # Without a folder, by the recipe.
    sizes = ["model.path=nowhere", "model.text_shape=[77, 2048]", "model.pooled_size=1280"]
    shapes = expected_shapes(load_recipe(recipe_path, sizes), "semantic")
    assert (shapes.of_latent("text-class"), shapes.of_latent("pooled-class")) == ((77, 2048), (1280,))
    with pytest.raises(UserError, match=r"takes pooled states of width 12, the recipe's model\.pooled_size is 1280"):
        expected_shapes(load_recipe(recipe_path, [path, "model.pooled_size=1280"]), "semantic")
    with pytest.raises(UserError, match=r"takes no pooled state, the recipe's model\.pooled_size is 1280"):
        expected_shapes(load_recipe(recipe_path, ["model.pooled_size=1280"]), "semantic")


def test_a_model_that_the_stage_does_not_train_is_refused_before_data_are_read(
    recipe_path: Path, tiny_sdxl_folder: Path
) -> None:
    recipe = load_recipe(recipe_path, [f"model.path={tiny_sdxl_folder}", "data.path=nowhere", *SIZES])
    for check in (open_inputs, expected_shapes):
        with pytest.raises(UserError, match=r"\(SDXL \(StableDiffusionXLPipeline\)\) takes a pooled text state"):
            check(recipe, "diffusion")


def test_a_subject_without_training_segments_is_unknown_to_the_networks(recipe_path: Path, tmp_path: Path) -> None:
    """As in a data set that was split by leave-subject-out: a map of its own would stay untrained."""
    data = write_study(tmp_path / "data", tested_subject=2)
    recipe = load_recipe(recipe_path, [f"data.path={data}", "encoder.subject_layers=true"])
    dataset, shapes, _ = open_inputs(recipe, "contrastive")
    assert dataset.metadata.subjects == (1, 2)
    assert set(dataset.index.subject[dataset.rows("test")].tolist()) == {2}
    assert shapes.subjects == (1,)
    stage = build_stage(recipe, "contrastive", shapes)
    encoder = stage.networks["encoder"]
    assert isinstance(encoder, EEGEncoder)
    with torch.no_grad():
        encoder.subject_layers.offsets.normal_(0, 0.3)
    eeg = torch.randn(2, N_CHANNELS, N_SAMPLES)
    known, unseen = (encoder.eval()(eeg, torch.full((2,), subject)) for subject in (1, 2))
    assert torch.allclose(known, unseen)  # the mean of one map
    assert untrained_text(dataset, recipe, (1,)) == (
        "1 subject has no training segments (2): as any new subject's, their EEG is given the mean of the other "
        "subjects' maps (encoder.unknown_subject).\n"
    )
    assert untrained_text(dataset, recipe, (1, 2)) == ""
    refusing = load_recipe(recipe_path, [f"data.path={data}", "encoder.unknown_subject=error"])
    assert "their EEG is refused" in untrained_text(dataset, refusing, (1,))


@pytest.mark.parametrize("stage", ["alignment", "prior", "diffusion"])
def test_an_adapter_that_takes_another_width_than_the_cached_embeddings_is_refused(
    stage: str, recipe_path: Path, tiny_diffusion_folder: Path, tmp_path: Path
) -> None:
    file = write_tiny_ip_adapter(tmp_path / "a.safetensors", tiny_diffusion_folder, embedding_size=24)
    words = (f"model.ip_adapters={{mine: {{path: '{file}', target: image}}}}", "diffusion.train=adapter")
    recipe = load_recipe(recipe_path, words)
    message = r"takes image embeddings of width 24; those of kind 'image' have width 20.*model\.ip_adapters\.mine\."
    with pytest.raises(UserError, match=message):
        open_inputs(recipe, stage)
    with pytest.raises(UserError, match=message):
        expected_shapes(recipe, stage)
    open_inputs(recipe, "semantic")  # it reads no image embeddings
    shutil.copytree(tiny_diffusion_folder, tmp_path / "model")
    # An adapter in the model folder is there without being asked for, so it hinders only the stage that trains it.
    own = tmp_path / "model" / "ip_adapter" / "ip_adapter.safetensors"
    write_tiny_ip_adapter(own, tiny_diffusion_folder, embedding_size=24)
    recipe = load_recipe(recipe_path, [f"model.path={tmp_path / 'model'}", "diffusion.train=adapter"])
    if stage == "diffusion":
        with pytest.raises(UserError, match=r"the IP-Adapter ip_adapter .* width 24"):
            expected_shapes(recipe, stage)
    else:
        assert expected_shapes(recipe, stage).of_latent("image") == (20,)
