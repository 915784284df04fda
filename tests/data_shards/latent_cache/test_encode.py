"""Cached latents against direct calls of the libraries."""

from pathlib import Path

import pytest
import torch

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.frozen_models.latent_kinds import latent_kind
from neuroimagen.data_shards.latent_cache.cache import LatentCache
from neuroimagen.data_shards.latent_cache.encode import (
    CaptionBatches,
    CaptionedImageBatches,
    ImageBatches,
    batch_encoder,
)


def test_vae_latents_are_the_posterior(cached: tuple, tiny_diffusion_folder: Path) -> None:
    from diffusers import AutoencoderKL

    dataset, _, stores = cached
    store = stores["vae"].store
    images = dataset.stimuli.images(range(len(dataset.stimuli)), 32)
    pixels = torch.from_numpy(images).float() / 127.5 - 1
    vae = AutoencoderKL.from_pretrained(tiny_diffusion_folder, subfolder="vae")
    with torch.no_grad():
        posterior = vae.encode(pixels).latent_dist
    latents = store.get(range(14))
    assert latents.shape == (14, 2, 4, 8, 8)
    assert latents.dtype == torch.float32
    torch.testing.assert_close(latents[:, 0], posterior.mean, rtol=2e-3, atol=1e-4)
    torch.testing.assert_close(latents[:, 1], posterior.std, rtol=2e-3, atol=1e-4)
    assert store.metadata.scaling_factor == pytest.approx(0.7)


@pytest.mark.parametrize("source", ["class", "detailed", "blip"])
def test_text_latents_are_the_text_encoder_s(cached: tuple, tiny_diffusion_folder: Path, source: str) -> None:
    from transformers import CLIPTextModel, CLIPTokenizer

    dataset, _, stores = cached
    hidden, pooled = stores[f"text-{source}"].store, stores[f"pooled-{source}"].store
    if source != "blip":
        expected = dataset.stimuli.captions if source == "class" else dataset.stimuli.detailed_captions
        assert hidden.texts == list(expected)
    assert hidden.texts == pooled.texts
    tokenizer = CLIPTokenizer.from_pretrained(tiny_diffusion_folder / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(tiny_diffusion_folder / "text_encoder")
    tokens = tokenizer(hidden.texts, padding="max_length", truncation=True, max_length=24, return_tensors="pt")
    with torch.no_grad():
        output = encoder(tokens.input_ids)
    torch.testing.assert_close(hidden.get(range(14)), output.last_hidden_state, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(pooled.get(range(14)), output.pooler_output, rtol=2e-3, atol=2e-3)


def test_image_latents_are_projected_embeddings(cached: tuple, tiny_diffusion_folder: Path) -> None:
    from transformers import CLIPImageProcessorPil, CLIPModel

    dataset, _, stores = cached
    processor = CLIPImageProcessorPil.from_pretrained(tiny_diffusion_folder / "clip")
    clip = CLIPModel.from_pretrained(tiny_diffusion_folder / "clip")
    pixels = processor(images=[dataset.stimuli.image(row) for row in range(14)], return_tensors="pt").pixel_values
    with torch.no_grad():
        expected = clip.visual_projection(clip.vision_model(pixel_values=pixels).pooler_output)
    torch.testing.assert_close(stores["image"].store.get(range(14)), expected, rtol=2e-3, atol=2e-3)


def test_blip_captions_differ_between_images(cached: tuple) -> None:
    _, _, stores = cached
    texts = stores["text-blip"].store.texts
    assert len(set(texts)) > 1
    assert any(texts)  # random weights may also say nothing


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0.0), ("bfloat16", 2.0**-8), ("float16", 2.0**-11)])
def test_stored_dtypes(dataset: Dataset, tiny_diffusion_folder: Path, dtype: str, tolerance: float) -> None:
    cache = LatentCache(dataset, tiny_diffusion_folder, dtype=dtype)
    made = cache.cache("pooled-class")
    captions = cache.describe("pooled-class")[1].texts
    encoder = batch_encoder(latent_kind("pooled-class"), dataset.stimuli, captions, cache._models)
    direct, encoded = encoder.encode(range(12), None)
    assert encoded == captions
    error = (made.store.get(range(12)) - direct).abs()
    assert (error <= tolerance * direct.abs()).all()
    assert cache.check(made) <= max(tolerance, 1e-6)


def test_each_source_has_its_batches(dataset: Dataset, tiny_diffusion_folder: Path, tiny_blip_folder: Path) -> None:
    cache = LatentCache(dataset, tiny_diffusion_folder, captioner=tiny_blip_folder)
    expected = {
        "vae": (ImageBatches, None, torch.uint8),
        "image": (ImageBatches, None, torch.float32),
        "text-class": (CaptionBatches, ["a", "b"], None),
        "text-blip": (CaptionedImageBatches, None, torch.float32),
    }
    for kind, (batches, captions, dtype) in expected.items():
        encoder = batch_encoder(latent_kind(kind), dataset.stimuli, captions, cache._models)
        assert isinstance(encoder, batches)
        prepared = encoder.prepare([1, 0])
        assert (None if prepared is None else prepared.dtype) == dtype
        latents, encoded = encoder.encode([1, 0], prepared)
        assert latents.shape == (2, *cache.describe(kind)[0].shape)
        assert encoded == ["b", "a"] if kind == "text-class" else len(encoded) == (2 if kind == "text-blip" else 0)
