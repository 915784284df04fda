"""Building a stage from a recipe: the same networks on every rank, and what it starts from."""

import dataclasses
from pathlib import Path

import pytest
import torch
from small_study import N_CHANNELS, N_SAMPLES

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.networks.alignment import AlignmentModel
from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder, build_encoder
from neuroimagen.trainer.networks.encoders.registry import encoder_config
from neuroimagen.trainer.networks.prior import PriorModel
from neuroimagen.trainer.recipe.recipe import Recipe, load_recipe
from neuroimagen.trainer.runs.run_folder import StageFolder
from neuroimagen.trainer.training.build import build_stage, initial_source, load_initial, sized_recipe
from neuroimagen.trainer.training.inputs import open_inputs

EVERY = ("contrastive", "saliency", "semantic")


@pytest.fixture
def recipe(recipe_path: Path) -> Recipe:
    return load_recipe(recipe_path, ["saliency.sample_every=null"])


def start(**changes: object) -> EEGEncoder:
    """A trained encoder of the recipe's kind and sizes, but for `changes`."""
    settings = {"feature_size": 16, "spatial_filters": 8, "temporal_filters": 8, "kernel_samples": 5}
    config = encoder_config(**{**settings, "stride_samples": 2, "dropout": 0.1, **changes})
    return build_encoder(config, n_channels=N_CHANNELS, n_samples=N_SAMPLES)


@pytest.mark.parametrize("name", EVERY)
def test_networks_do_not_depend_on_what_was_drawn_before(recipe: Recipe, recipe_path: Path, name: str) -> None:
    _, shapes, _ = open_inputs(recipe, name)
    made = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        networks = build_stage(recipe, name, shapes).networks
        made.append({key: value for network in networks.values() for key, value in network.state_dict().items()})
    assert all(torch.equal(made[0][key], made[1][key]) for key in made[0])
    other = build_stage(load_recipe(recipe_path, ["seed=2", "saliency.sample_every=null"]), name, shapes)
    parameters = [p for network in other.networks.values() for p in network.parameters() if p.ndim > 1]
    first = [p for network in build_stage(recipe, name, shapes).networks.values() for p in network.parameters()]
    assert not any(torch.equal(a, b) for a, b in zip(parameters, [p for p in first if p.ndim > 1], strict=True))


def test_a_stage_starts_from_the_encoder_that_it_is_given(recipe: Recipe) -> None:
    _, shapes, _ = open_inputs(recipe, "saliency")
    initial = start()
    encoder = build_stage(recipe, "saliency", shapes, initial=initial).networks["generator"].get_submodule("encoder")
    weights = encoder.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in initial.state_dict().items())


def test_an_encoder_that_does_not_fit_is_refused_with_the_settings_that_would(recipe: Recipe) -> None:
    _, shapes, _ = open_inputs(recipe, "saliency")
    with pytest.raises(UserError, match=r"\(encoder\.spatial_filters 8\).* --set encoder\.spatial_filters=6; or"):
        build_stage(recipe, "saliency", shapes, initial=start(spatial_filters=6))
    config = encoder_config(feature_size=16, kernel_samples=5, stride_samples=2)
    other = build_encoder(config, n_channels=N_CHANNELS + 1, n_samples=N_SAMPLES)
    with pytest.raises(UserError, match=rf"reads {N_CHANNELS + 1} channels × {N_SAMPLES} samples, the data set has"):
        build_stage(recipe, "saliency", shapes, initial=other)


def test_what_a_stage_starts_from_is_found_in_its_run_or_in_another(recipe_path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_path)
    assert initial_source(recipe, "contrastive") is None
    assert load_initial(recipe, "contrastive", tmp_path) is None
    assert initial_source(recipe, "saliency") == "contrastive"
    with pytest.raises(UserError, match=r"Train that stage first, or set saliency\.initialise_from=null"):
        load_initial(recipe, "saliency", tmp_path)
    folder = StageFolder(tmp_path / "run", "contrastive")
    encoder = start()
    encoder.save_pretrained(folder.export)
    elsewhere = load_recipe(recipe_path, [f"saliency.initialise_from={folder.path}"])
    for run, words in ((tmp_path / "run", recipe), (tmp_path / "other", elsewhere)):
        found = load_initial(words, "saliency", run)
        assert isinstance(found, EEGEncoder)
        assert torch.equal(found.trunk.spatial, encoder.trunk.spatial)


def test_a_stage_starts_from_the_encoder_of_a_network_that_has_one(recipe_path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_path, ["saliency.initialise_from=alignment"])
    folder = StageFolder(tmp_path, "alignment")
    encoder = start()
    model = AlignmentModel(
        encoder=encoder.config,
        embedding_sizes={"image": 5},
        head="linear",
        head_dropout=0.0,
        centre_targets=True,
        logit_scale=10.0,
        learn_logit_scale=True,
    )
    model.encoder.load_state_dict(encoder.state_dict())
    model.save_pretrained(folder.export)
    found = load_initial(recipe, "saliency", tmp_path)
    assert isinstance(found, EEGEncoder)
    assert torch.equal(found.trunk.spatial, encoder.trunk.spatial)
    prior = PriorModel(
        kind="image",
        condition_kind="image",
        embedding_size=5,
        condition_size=5,
        network="mlp",
        network_settings={"sizes": [8, 4], "time_size": 8, "dropout": 0.0},
        prediction="epsilon",
        sampling_steps=2,
        guidance=1.0,
    )
    prior.save_pretrained(folder.export)
    with pytest.raises(UserError, match="has no EEG encoder to start from"):
        load_initial(recipe, "saliency", tmp_path)


def test_a_stage_whose_start_is_a_whole_model_gets_an_untrained_one_where_only_sizes_matter(recipe: Recipe) -> None:
    _, shapes, _ = open_inputs(recipe, "diffusion")
    model = build_stage(recipe, "diffusion", shapes).networks["model"]
    assert model.get_submodule("semantic").text_shape == shapes.text_shape


def test_lengths_in_ms_are_those_of_the_data(recipe_path: Path) -> None:
    """40 samples at 100 Hz: a shift of 100 ms is a quarter of the segment."""
    in_ms = load_recipe(
        recipe_path,
        [
            "encoder.kernel_ms=50",
            "encoder.stride_ms=20",
            "classifier.augment={shift_ms: 100, scale_std: 0.1}",
        ],
    )
    _, shapes, _ = open_inputs(in_ms, "classifier")
    stage = build_stage(in_ms, "classifier", shapes)
    assert stage.config.augment.shift_samples == 2
    same = build_stage(load_recipe(recipe_path), "classifier", shapes)  # kernel_samples 5, stride_samples 2
    assert stage.exported(stage.networks).config == same.exported(same.networks).config
    _, notes = sized_recipe(in_ms, "classifier", shapes)
    assert len(notes) == 1
    assert "at most 2 samples, not 10" in notes[0]
    with pytest.raises(UserError, match=r"encoder\.kernel_ms needs the sampling rate"):
        build_stage(in_ms, "classifier", dataclasses.replace(shapes, sfreq=None))


def test_a_stage_in_ms_starts_from_an_encoder_in_samples(recipe_path: Path) -> None:
    in_ms = load_recipe(recipe_path, ["encoder.kernel_ms=50", "encoder.stride_ms=20"])
    _, shapes, _ = open_inputs(in_ms, "classifier")
    assert build_stage(in_ms, "classifier", shapes, initial=start()).networks["model"] is not None
    other = load_recipe(recipe_path, ["encoder.kernel_ms=90"])
    with pytest.raises(UserError, match=r"encoder\.kernel_samples 9"):
        build_stage(other, "classifier", shapes, initial=start())
