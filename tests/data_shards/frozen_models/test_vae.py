"""Which arithmetic keeps the VAE's latents within what `cache --check` accepts; on the trained VAE that ships."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from neuroimagen.data_shards.format.images import square_image
from neuroimagen.data_shards.frozen_models.encoder import CHECK_TOLERANCE
from neuroimagen.data_shards.frozen_models.vae import PosteriorEncoder, VaeEncoder, exact_convolutions
from neuroimagen.data_shards.simulator.drawn_stimuli import draw_scene, sample_scene
from neuroimagen.trainer.bundled_model.location import bundled_model_path


@pytest.fixture(scope="module")
def vae() -> VaeEncoder:
    return VaeEncoder(bundled_model_path(), device=torch.device("cpu"))


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    rng = np.random.default_rng(0)
    drawn = np.stack([draw_scene(sample_scene(rng), 64) for _ in range(16)]).transpose(0, 3, 1, 2)
    return torch.from_numpy(drawn.copy()).float() / 127.5 - 1


def error_of(latents: torch.Tensor, exact: torch.Tensor) -> float:
    """As `LatentCache.check` measures it."""
    difference = (latents - exact).flatten(1).abs().amax(1) / exact.flatten(1).abs().amax(1)
    return float(difference.max())


def test_tf32_convolutions_do_for_float16_not_for_float32(vae: VaeEncoder, pixels: torch.Tensor) -> None:
    """Emulated: inputs and weights rounded to 10 bits, sums in float32, as tensor cores do."""

    def tf32(values: torch.Tensor) -> torch.Tensor:
        return ((values.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)

    exact = vae.posterior(pixels)
    rounded = copy.deepcopy(vae)
    for module in rounded.vae.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data = tf32(module.weight.data)
            module.register_forward_pre_hook(lambda _, args: (tf32(args[0]),))
    error = error_of(rounded.posterior(pixels), exact)
    assert CHECK_TOLERANCE["float32"] < error < CHECK_TOLERANCE["float16"] / 2


def test_bfloat16_does_not_do(vae: VaeEncoder, pixels: torch.Tensor) -> None:
    low = copy.deepcopy(vae.vae).to(torch.bfloat16)
    with torch.inference_mode():
        mean = low.encode(pixels.bfloat16()).latent_dist.mean
    assert error_of(mean.float(), vae.posterior(pixels)[:, 0]) > 2 * CHECK_TOLERANCE["float16"]


def test_slices_are_the_whole(vae: VaeEncoder, pixels: torch.Tensor) -> None:
    sliced = copy.deepcopy(vae)
    assert (sliced.image_size_px, sliced.slice_images) == (64, 256)
    sliced.slice_images = 5
    torch.testing.assert_close(sliced.posterior(pixels), vae.posterior(pixels), rtol=1e-4, atol=1e-4)
    latents = vae.encode(pixels)
    torch.testing.assert_close(sliced.decode(latents), vae.decode(latents), rtol=1e-4, atol=1e-4)


def test_a_posterior_is_that_of_the_centre_square(vae: VaeEncoder) -> None:
    encoder = PosteriorEncoder(vae)
    rng = np.random.default_rng(1)
    images = [Image.fromarray(rng.integers(0, 256, (70, 90, 3), dtype=np.uint8)) for _ in range(3)]
    pixels = encoder.pixels(images)
    assert pixels.dtype == torch.uint8
    expected = torch.from_numpy(np.stack([square_image(image, 64) for image in images]))
    assert torch.equal(pixels, expected)
    latents = encoder.encode(pixels)
    assert torch.equal(latents, vae.posterior(expected.float() / 127.5 - 1))
    assert torch.equal(vae.encode(expected.float() / 127.5 - 1), latents[:, 0] * vae.scaling_factor)


def test_convolutions_are_exact_inside_only() -> None:
    before = torch.backends.cudnn.conv.fp32_precision
    with exact_convolutions():
        assert torch.backends.cudnn.conv.fp32_precision == "ieee"
    assert torch.backends.cudnn.conv.fp32_precision == before
