"""The VAE of the bundled model, which reduces images eightfold in each direction."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from neuroimagen.trainer.bundled_model.fitting import fast_matmul, fit
from neuroimagen.trainer.bundled_model.training_stimuli import SIZE_PX, TrainingStimuli

LATENT_CHANNELS = 8


def _edges(drawn: Tensor, images: Tensor) -> Tensor:
    """L1 between the differences of neighbouring pixels, down and across."""
    down = F.l1_loss(drawn.diff(dim=-2), images.diff(dim=-2))
    return down + F.l1_loss(drawn.diff(dim=-1), images.diff(dim=-1))


def build_vae(latent_channels: int) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 24, 48, 64),
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=8,
        sample_size=SIZE_PX,
        mid_block_add_attention=False,
    )


@torch.no_grad()
def grow_latents(vae: AutoencoderKL, latent_channels: int) -> AutoencoderKL:
    """The same autoencoder with more latent channels, which its decoder does not look at yet.

    The encoder's output holds the means of all channels, then their log variances.
    """
    old, new = vae.config.latent_channels, latent_channels
    grown = build_vae(new)
    state, source = grown.state_dict(), vae.state_dict()
    kept = torch.cat([torch.arange(old), new + torch.arange(old)])
    for name, value in source.items():
        if state[name].shape == value.shape:
            state[name].copy_(value)
    state["encoder.conv_out.weight"][kept] = source["encoder.conv_out.weight"]
    state["encoder.conv_out.bias"][kept] = source["encoder.conv_out.bias"]
    for name, channels in (("quant_conv", kept), ("post_quant_conv", torch.arange(old))):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        weight.copy_(torch.eye(len(bias))[..., None, None])
        bias.zero_()
        weight[channels[:, None], channels] = source[f"{name}.weight"]
        bias[channels] = source[f"{name}.bias"]
    state["quant_conv.bias"][new + old :] = -6.0  # a standard deviation of 0.05, as the trained channels have
    state["decoder.conv_in.weight"].zero_()
    state["decoder.conv_in.weight"][:, :old] = source["decoder.conv_in.weight"]
    return grown


def train_vae(stimuli: TrainingStimuli, folder: Path, *, steps: int, second_steps: int, seed: int) -> None:
    """AutoencoderKL in two phases: four latent channels and L1 (shapes first), then LATENT_CHANNELS and squared error.

    L1 alone settles on the median colour of what it cannot place yet and leaves thin, saturated areas grey for long;
    the squared error of the second phase pulls the colours in.
    """
    generator = torch.Generator().manual_seed(seed)
    vae = build_vae(4)

    def reconstruct(index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        images = stimuli.scaled(index)
        if torch.rand((), generator=generator) < 0.5:
            images = images.flip(-1)
        with fast_matmul():
            posterior = vae.encode(images).latent_dist
            drawn = vae.decode(posterior.sample(generator)).sample
        return drawn.float(), images, 1e-6 * posterior.kl().float().mean()

    def shapes_first(index: Tensor) -> Tensor:
        drawn, images, divergence = reconstruct(index)
        colours = F.l1_loss(F.avg_pool2d(drawn, 4), F.avg_pool2d(images, 4))
        return F.l1_loss(drawn, images) + _edges(drawn, images) + colours + divergence

    def colours_too(index: Tensor) -> Tensor:
        drawn, images, divergence = reconstruct(index)
        return 2 * F.mse_loss(drawn, images) + F.l1_loss(drawn, images) + _edges(drawn, images) + divergence

    shared: dict[str, Any] = {"count": len(stimuli.labels), "batch_size": 16, "learning_rate": 2e-3}
    fit("vae", list(vae.parameters()), shapes_first, steps=steps, seed=seed, **shared)
    vae = grow_latents(vae, LATENT_CHANNELS)
    fit("vae, second phase", list(vae.parameters()), colours_too, steps=second_steps, seed=seed + 1, **shared)
    mean, _ = encode_latents(vae, stimuli, torch.arange(min(4_000, len(stimuli.labels))))
    vae.register_to_config(scaling_factor=float(1 / mean.std()))
    vae.save_pretrained(folder)


@torch.inference_mode()
def encode_latents(vae: AutoencoderKL, stimuli: TrainingStimuli, index: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior mean and standard deviation, float32 [n, channels, h, w] each."""
    means, stds = [], []
    for chunk in index.split(250):
        posterior = vae.encode(stimuli.scaled(chunk)).latent_dist
        means.append(posterior.mean.float())
        stds.append(posterior.std.float())
    return torch.cat(means), torch.cat(stds)
