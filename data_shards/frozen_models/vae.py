"""The VAE of a latent diffusion model: images to latents and back.

Sizes come from the folder's configurations. Shapes: B images, S side of an image in px, C latent channels, h×w latent
size.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from neuroimagen.data_shards.format.images import square_image
from neuroimagen.data_shards.frozen_models.loading import loading
from neuroimagen.data_shards.frozen_models.model_folder import component_folder, image_size_px, weights_variant

SLICE_PIXELS = 4 * 512 * 512
"""Pixels that go through a VAE at once. Stable Diffusion's decoder has feature maps of 1 KiB per pixel (256 channels in
float32), several of them in memory at a time, and a few images of 512 px keep a GPU busy: more only cost memory."""


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Run convolutions in full float32. PyTorch's default on GPUs that have TF32 rounds their inputs to 10 bits."""
    cudnn: Any = torch.backends.cudnn  # a module that makes itself an object, which type checkers do not see
    before = cudnn.conv.fp32_precision
    cudnn.conv.fp32_precision = "ieee"
    try:
        yield
    finally:
        cudnn.conv.fp32_precision = before


def load_vae(folder: Path, *, device: torch.device) -> Any:
    """Load the AutoencoderKL in a folder for inference, in float32 whatever its weights are stored in."""
    from diffusers import AutoencoderKL

    with loading(folder):
        vae = AutoencoderKL.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, variant=weights_variant(folder)
        )
        # float32 whatever the U-Net runs in: Stable Diffusion's VAE overflows in float16. Weights that the file lacks
        # are found out only by the move: they are not on any device yet.
        return vae.to(device=device, memory_format=torch.channels_last).eval().requires_grad_(False)


class VaeEncoder:
    """AutoencoderKL: images to the mean and standard deviation of their latents' posterior, and back.

    Batches of any size go through in slices of SLICE_PIXELS.
    """

    def __init__(self, model: Path, *, device: torch.device) -> None:
        self.vae = load_vae(component_folder(model, "vae"), device=device)
        self.device = device
        self.image_size_px = image_size_px(model)
        self.scaling_factor = float(self.vae.config.scaling_factor)
        self.shift = float(self.vae.config.shift_factor or 0.0)
        self.slice_images = max(1, SLICE_PIXELS // self.image_size_px**2)
        """Images that go through at once."""

    @torch.inference_mode()
    def posterior(self, pixels: torch.Tensor) -> torch.Tensor:
        """Images float32 [B, 3, S, S] in [-1, 1] → mean and std of their latents [B, 2, C, h, w], not scaled."""
        pixels = pixels.to(self.device, memory_format=torch.channels_last)
        posteriors = [self.vae.encode(chunk).latent_dist for chunk in pixels.split(self.slice_images)]
        return torch.cat([torch.stack([posterior.mean, posterior.std], dim=1) for posterior in posteriors])

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Images float32 [B, 3, S, S] in [-1, 1] → mode of their latents [B, C, h, w], scaled for the U-Net."""
        return (self.posterior(pixels)[:, 0] - self.shift) * self.scaling_factor

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Scaled latents [B, C, h, w] → images float32 [B, 3, S, S], about [-1, 1]."""
        latents = latents.to(self.device, torch.float32) / self.scaling_factor + self.shift
        latents = latents.to(memory_format=torch.channels_last)
        return torch.cat([self.vae.decode(chunk).sample for chunk in latents.split(self.slice_images)])


class PosteriorEncoder:
    """Encodes images as the latent cache does: the posterior of the centre square, [2, C, h, w] each."""

    def __init__(self, vae: VaeEncoder) -> None:
        self.vae = vae

    def pixels(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """RGB images of any size → uint8 [B, 3, S, S] on the CPU."""
        return torch.from_numpy(np.stack([square_image(image, self.vae.image_size_px) for image in images]))

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """`pixels` → mean and standard deviation of their latents, float32 [B, 2, C, h, w], not scaled."""
        return self.vae.posterior(pixels.to(self.vae.device, non_blocking=True).float() / 127.5 - 1)
