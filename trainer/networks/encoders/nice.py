"""NICE's encoder and projector (Song et al. 2024)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroimagen.trainer.networks.encoders.base import EncoderConfig, Trunk, group_norm
from neuroimagen.trainer.networks.randomness import SampleDropout


@dataclass(frozen=True, kw_only=True)
class TSConvConfig(EncoderConfig):
    """Sizes of NICE's layers, which ATM has too; in samples, so they depend on the sampling rate."""

    temporal_filters: int = 64
    """Filters in time of the first layer."""
    kernel_samples: int = 17
    """Length of the filters in time."""
    kernel_ms: float | None = None
    """That length in ms, in place of kernel_samples; at most a quarter of the segment."""
    pool_samples: int = 51
    """Samples of the filtered EEG that each mean is taken over."""
    pool_ms: float | None = None
    """The same in ms, in place of pool_samples; at most a quarter of the segment."""
    stride_samples: int = 4
    """Samples from one mean to the next."""
    stride_ms: float | None = None
    """The same in ms, in place of stride_samples."""
    spatial_filters: int = 48
    """Filters in space, after those in time."""


@dataclass(frozen=True, kw_only=True)
class NICEConfig(TSConvConfig):
    """`encoder.kind: nice`: NICE's own layers, filters in time before those in space.

    The published sizes, at 250 Hz: 40 filters of 25 samples, means over 51 every 5, 40 spatial filters, dropout 0.5,
    feature_size 768.
    """

    kind: Literal["nice"] = "nice"


class NICETrunk(Trunk):
    """NICE's encoder and projector (Song et al. 2024): filters in time on every electrode, means over time, filters
    over all electrodes, a linear mix of these, then a linear layer with a residual block.

    The layers, their sizes and the number of parameters are those of the released code; GroupNorm stands where it has
    BatchNorm, for the reason given at TemporalSpatialTrunk. The mean of filtered samples is the EEG filtered with the
    filter's running mean, so filter and mean are one strided convolution: the same function, with a fifth of the memory
    and half of the multiplications (28 M in place of 53 M for a segment of 128 × 440).
    """

    Config: ClassVar[type[TSConvConfig]] = NICEConfig
    unit: ClassVar[str] = "segments"
    """What the convolutions read, in messages."""
    box: Tensor

    def __init__(self, config: TSConvConfig, *, n_channels: int, n_samples: int) -> None:
        super().__init__(config, n_channels=n_channels, n_samples=n_samples)
        self.stride = config.stride_samples
        length = config.kernel_samples + config.pool_samples - 1
        n_steps = (n_samples - length) // self.stride + 1
        if n_steps < 1:
            raise ValueError(
                f"{self.unit} of {n_samples} samples are shorter than the {length} that a filter and its mean take; "
                "lower encoder.kernel_samples or encoder.pool_samples"
            )
        filters, spatial = config.temporal_filters, config.spatial_filters
        self.temporal = nn.Conv1d(1, filters, config.kernel_samples)
        self.register_buffer("box", torch.full((1, 1, config.pool_samples), 1 / config.pool_samples), persistent=False)
        self.norm_temporal = group_norm(filters)
        self.spatial = nn.Conv2d(filters, spatial, (n_channels, 1))
        self.norm_spatial = group_norm(spatial)
        self.dropout = SampleDropout(config.dropout)
        self.mix = nn.Conv1d(spatial, spatial, 1)
        self.head = nn.Linear(spatial * n_steps, config.feature_size)
        self.residual = nn.Linear(config.feature_size, config.feature_size)
        self.dropout_residual = SampleDropout(config.dropout)
        self.norm = nn.LayerNorm(config.feature_size)

    def forward(self, eeg: Tensor, mean: Tensor, whitening: Tensor) -> Tensor:
        return self.convolve(whitening @ (eeg - mean[:, None]))

    def convolve(self, x: Tensor) -> Tensor:
        """Whitened channels [B, C, T] → features [B, F]."""
        smoothed = F.conv1d(self.temporal.weight, self.box, padding=self.box.shape[2] - 1)  # [filters, 1, length]
        x = F.conv2d(x[:, None], smoothed[:, :, None], self.temporal.bias, stride=(1, self.stride))
        x = F.elu(self.norm_temporal(x))
        x = F.elu(self.norm_spatial(self.spatial(x)[:, :, 0]))  # [B, S, steps]
        features = self.head(self.mix(self.dropout(x)).flatten(1))
        return self.norm(features + self.dropout_residual(self.residual(F.gelu(features))))
