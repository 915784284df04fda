"""A spatial mix of the electrodes, then convolutions in time: the default encoder."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroimagen.trainer.networks.encoders.base import EncoderConfig, Trunk, group_norm
from neuroimagen.trainer.networks.randomness import SampleDropout


@dataclass(frozen=True, kw_only=True)
class TemporalSpatialConfig(EncoderConfig):
    """`encoder.kind: temporal_spatial`: convolutions, faster and stronger than the LSTM (after NICE)."""

    kind: Literal["temporal_spatial"] = "temporal_spatial"
    spatial_filters: int = 48
    """S: virtual channels that the electrodes are mixed into before any filter in time."""
    temporal_filters: int = 64
    """Filters in time of each of the three layers."""
    kernel_samples: int = 17
    """Length of the first filter; the layers after it are half as long, on a coarser grid."""
    kernel_ms: float | None = None
    """That length in ms, in place of kernel_samples; at most a quarter of the segment."""
    stride_samples: int = 4
    """Samples from one output of the first filter to the next."""
    stride_ms: float | None = None
    """The same in ms, in place of stride_samples."""


class TemporalSpatialTrunk(Trunk):
    """A linear mix of the electrodes, then three strided filters in time, then one linear layer over what is left of
    time.

    A spatial and a temporal filter are both linear and commute. Mixing 128 electrodes into 48 virtual channels first
    makes every later convolution cheaper: about 12 M multiply-adds for a segment of 128 × 440. GroupNorm, not
    BatchNorm: the features of a segment must not depend on how a batch is divided over ranks.
    """

    Config = TemporalSpatialConfig

    def __init__(self, config: TemporalSpatialConfig, *, n_channels: int, n_samples: int) -> None:
        super().__init__(config, n_channels=n_channels, n_samples=n_samples)
        kernel, stride = config.kernel_samples, config.stride_samples
        half = max(3, (kernel // 2) | 1)
        filters = config.temporal_filters
        self.spatial = nn.Parameter(torch.empty(config.spatial_filters, n_channels))
        nn.init.kaiming_uniform_(self.spatial, a=math.sqrt(5))  # as torch's own convolutions
        # No biases: the norms bring their own, and would take most of these out again.
        self.layers = nn.ModuleList(
            [
                nn.Conv1d(config.spatial_filters, filters, kernel, stride=stride, padding=kernel // 2, bias=False),
                nn.Conv1d(filters, filters, half, stride=2, padding=half // 2, bias=False),
                nn.Conv1d(filters, filters, half, stride=2, padding=half // 2, bias=False),
            ]
        )
        self.norms = nn.ModuleList([group_norm(filters) for _ in self.layers])
        n_steps = n_samples
        for layer_stride, size in ((stride, kernel), (2, half), (2, half)):
            n_steps = (n_steps + 2 * (size // 2) - size) // layer_stride + 1
        if n_steps < 1:
            raise ValueError(
                f"segments of {n_samples} samples are too short for a stride of {stride}; lower encoder.stride_samples"
            )
        self.dropout = SampleDropout(config.dropout)
        self.pool = nn.AvgPool1d(min(10, n_samples), ceil_mode=True)
        pooled = -(-n_samples // min(10, n_samples))
        self.head = nn.Linear(filters * n_steps + config.spatial_filters * pooled, config.feature_size)

    def forward(self, eeg: Tensor, mean: Tensor, whitening: Tensor) -> Tensor:
        mix = self.spatial @ whitening  # [S, C], or a segment's own [B, S, C]
        if mix.ndim == 2:
            x = F.conv1d(eeg, mix[:, :, None], bias=-(mix @ mean))  # [B, S, T]
        else:
            x = mix @ eeg - (mix @ mean)[:, :, None]
        linear = self.pool(x).flatten(1)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = F.gelu(norm(layer(x)))
        return self.head(self.dropout(torch.cat([x.flatten(1), linear], dim=1)))
