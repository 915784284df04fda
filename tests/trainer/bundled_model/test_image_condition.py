"""Training the bundled IP-Adapter: the layout that diffusers loads, what training leaves alone, and the noise."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file

from neuroimagen.data_shards.frozen_models.adapter_weights import attach_adapters, initial_adapter
from neuroimagen.trainer.bundled_model.image_condition import (
    image_embeddings,
    save_unet_and_adapter,
    spread_of,
    train_image_condition,
)
from neuroimagen.trainer.bundled_model.location import bundled_model_path
from neuroimagen.trainer.bundled_model.training_stimuli import draw_stimuli
from neuroimagen.trainer.bundled_model.unet import build_unet

FOLDER = bundled_model_path()


@pytest.fixture
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return build_unet(AutoencoderKL.from_pretrained(FOLDER / "vae"))


def test_an_adapter_that_was_saved_is_the_one_that_diffusers_loads(unet, tmp_path: Path) -> None:
    plain = {name: value.clone() for name, value in unet.state_dict().items()}
    state = initial_adapter(unet, 64)
    attach_adapters(unet, [state])
    with torch.no_grad():
        for parameter in unet.parameters():  # so that a part left out is noticed
            parameter.add_(torch.randn_like(parameter) * 0.01)
    save_unet_and_adapter(unet, tmp_path)
    pipeline = StableDiffusionPipeline.from_pretrained(
        FOLDER, unet=UNet2DConditionModel.from_pretrained(tmp_path / "unet"), image_encoder=None, safety_checker=None
    )
    assert pipeline.unet.state_dict().keys() == plain.keys()
    pipeline.load_ip_adapter(
        tmp_path, subfolder="ip_adapter", weight_name="ip_adapter.safetensors", image_encoder_folder=None
    )
    loaded, trained = pipeline.unet.state_dict(), unet.state_dict()
    assert loaded.keys() == trained.keys()
    assert all(torch.equal(loaded[name], trained[name]) for name in trained)


def test_noise_has_the_covariance_of_the_embeddings_even_if_they_are_fewer_than_their_size() -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 6, generator=generator)
    embeddings = torch.randn(50, 6, generator=generator) @ mixing + 3
    spread = spread_of(embeddings)
    torch.testing.assert_close(spread.T @ spread, torch.cov(embeddings.T), rtol=1e-4, atol=1e-4)
    few = embeddings[:3]
    torch.testing.assert_close(spread_of(few).T @ spread_of(few), torch.cov(few.T), rtol=1e-3, atol=1e-3)


def test_the_embeddings_are_those_of_transformers_projected_tower() -> None:
    from transformers import CLIPModel, CLIPVisionModelWithProjection

    images = draw_stimuli(3, seed=0).scaled(torch.arange(3))
    tower = CLIPVisionModelWithProjection.from_pretrained(FOLDER / "image_encoder").eval()
    with torch.inference_mode():
        expected = tower(pixel_values=images).image_embeds
    assert torch.equal(image_embeddings(CLIPModel.from_pretrained(FOLDER / "clip").eval(), images), expected)


def test_training_changes_the_unet_and_the_adapter_but_not_its_biases(tmp_path: Path) -> None:
    stimuli = draw_stimuli(12, seed=0)
    torch.manual_seed(0)
    train_image_condition(stimuli, FOLDER, tmp_path / "two", steps=2, seed=0)
    torch.manual_seed(0)
    train_image_condition(stimuli, FOLDER, tmp_path / "again", steps=2, seed=0)
    file = Path("ip_adapter") / "ip_adapter.safetensors"
    assert (tmp_path / "two" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
    torch.manual_seed(0)
    before = initial_adapter(UNet2DConditionModel.from_pretrained(FOLDER / "unet"), 64)
    after = load_file(tmp_path / "two" / file)
    for part, weights in before.items():
        for name, value in weights.items():
            if name.endswith("bias"):
                assert not after[f"{part}.{name}"].any(), name
            else:
                assert not torch.equal(after[f"{part}.{name}"], value), name
    weights = Path("unet") / "diffusion_pytorch_model.safetensors"
    start, end = load_file(FOLDER / weights), load_file(tmp_path / "two" / weights)
    assert start.keys() == end.keys()
    assert all(not torch.equal(start[name].float(), end[name]) for name in start)
