"""EEG → the VAE latent of the stimulus, by regression: the low-level branch of ATM (Li et al. 2024).

Shapes: B segments, F features, C latent channels, h×w latent size.
"""

import math
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from neuroimagen.data_shards.dataset.latent_store import LatentStore
from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder
from neuroimagen.trainer.networks.pretrained import PretrainedModule
from neuroimagen.trainer.networks.randomness import SampleDropout

LatentHead = Literal["deconvolution", "linear"]
MIN_WIDTH = 16
"""Channels of a deconvolution, at least."""


class VaeLatentModel(PretrainedModule):
    """EEG [B, C, T], and with subject layers the subjects [B] → scaled latents [B, C, h, w], as the U-Net takes them.

    The head predicts the difference from the training stimuli's mean latent, in units of each channel's standard
    deviation; both are buffers.
    """

    model_type: ClassVar[str] = "vae-latent-model"
    target_mean: Tensor
    target_std: Tensor

    def __init__(
        self,
        *,
        encoder: dict[str, Any],
        latent_shape: tuple[int, int, int],
        scaling_factor: float,
        shift: float,
        head: LatentHead,
        grid_size: int,
        head_width: int,
        head_dropout: float,
    ) -> None:
        """scaling_factor, shift: of the VAE; scaled = (latent − shift) · scaling_factor.

        head: `deconvolution`, a linear map to head_width channels of a grid of at least grid_size, which transposed
        convolutions double until it has the latents' size; or `linear`, one map to all entries.
        """
        super().__init__()
        channels, height, width = latent_shape
        self.config = {
            "encoder": encoder,
            "latent_shape": list(latent_shape),
            "scaling_factor": scaling_factor,
            "shift": shift,
            "head": head,
            "grid_size": grid_size,
            "head_width": head_width,
            "head_dropout": head_dropout,
        }
        self.latent_shape = (channels, height, width)
        self.scaling_factor, self.shift = scaling_factor, shift
        self.encoder = EEGEncoder(**encoder)
        size = self.encoder.feature_size
        if head == "linear":
            layers = [SampleDropout(head_dropout), nn.Linear(size, math.prod(latent_shape))]
            self.head = nn.Sequential(*layers, nn.Unflatten(1, self.latent_shape))
        else:
            self.head = deconvolution(
                size, self.latent_shape, grid_size=grid_size, width=head_width, dropout=head_dropout
            )
        self.register_buffer("target_mean", torch.zeros(latent_shape))
        self.register_buffer("target_std", torch.ones(channels, 1, 1))

    def forward(self, eeg: Tensor, subject: Tensor | None = None) -> Tensor:
        return self.head(self.encoder(eeg, subject)) * self.target_std + self.target_mean

    def scaled(self, posteriors: Tensor) -> Tensor:
        """Cached posteriors [B, 2, C, h, w] → the scaled latents of their means, [B, C, h, w]."""
        return (posteriors[:, 0] - self.shift) * self.scaling_factor

    def standardised(self, latents: Tensor) -> Tensor:
        """Scaled latents [B, C, h, w] minus the mean one, in units of each channel's standard deviation."""
        return (latents - self.target_mean) / self.target_std

    def with_encoder(self, encoder: EEGEncoder) -> "VaeLatentModel":
        """The same head on `encoder`, which computes the same (EEGEncoder.for_subjects)."""
        if encoder is not self.encoder:
            self.encoder = encoder
            self.config = {**self.config, "encoder": encoder.config}
        return self

    @torch.no_grad()
    def fit_targets(self, store: LatentStore, stimuli: np.ndarray) -> None:
        """Set the mean latent, and each channel's standard deviation about it, from the distinct `stimuli` (rows)."""
        unique = np.unique(stimuli)
        total = torch.zeros(self.latent_shape, dtype=torch.float64)
        square = torch.zeros(self.latent_shape, dtype=torch.float64)
        for start in range(0, len(unique), 64):
            latents = self.scaled(store.get(unique[start : start + 64]).double())
            total += latents.sum(0)
            square += latents.square().sum(0)
        mean = total / len(unique)
        spread = (square / len(unique) - mean.square()).clamp_min(0).mean(dim=(1, 2), keepdim=True).sqrt()
        self.target_mean.copy_(mean)
        self.target_std.copy_(spread.clamp_min(1e-6))


def deconvolution(
    num_features: int, latent_shape: tuple[int, int, int], *, grid_size: int, width: int, dropout: float
) -> nn.Sequential:
    """[B, F] → [B, C, h, w]: a linear map to a grid, which is h×w halved while both sides stay whole and at least
    grid_size; then transposed convolutions (4×4, stride 2, as ATM's), each with half the channels of the one before.
    """
    channels, height, breadth = latent_shape
    num_doublings = 0
    while height % 2 == breadth % 2 == 0 and min(height, breadth) // 2 >= grid_size:
        height, breadth, num_doublings = height // 2, breadth // 2, num_doublings + 1
    first = width if num_doublings else channels
    layers: list[nn.Module] = [
        nn.Linear(num_features, first * height * breadth),
        SampleDropout(dropout),
        nn.Unflatten(1, (first, height, breadth)),
    ]
    for number in range(num_doublings):
        before = max(MIN_WIDTH, width >> number) if number else width
        after = channels if number == num_doublings - 1 else max(MIN_WIDTH, width >> (number + 1))
        layers += [nn.GroupNorm(1, before), nn.SiLU(), nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)]
    return nn.Sequential(*layers)
