"""EEGNet (Lawhern et al. 2018): filters in time, each with spatial filters of its own, then a separable convolution.

Shapes: B segments, C channels, T samples, F features.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroimagen.trainer.networks.encoders.base import EncoderConfig, Trunk
from neuroimagen.trainer.networks.randomness import SampleDropout

MAX_NORM_SPATIAL = 1.0
"""Largest norm of a spatial filter, as in the paper."""
MAX_NORM_HEAD = 0.25
"""Largest norm of a row of the last layer, as in the paper."""


@dataclass(frozen=True, kw_only=True)
class EEGNetConfig(EncoderConfig):
    """`encoder.kind: eegnet`. The defaults are EEGNet-8,2, with lengths in ms (the paper has them in samples of 128 Hz:
    filters of half of a second in its text, of 32 and 16 samples in its table; means over 4 and 8 steps)."""

    kind: Literal["eegnet"] = "eegnet"
    dropout: float = 0.5
    """Share that is zeroed in training after each mean over time; in the paper 0.5 within subjects, 0.25 across."""
    temporal_filters: int = 8
    """F1: filters in time."""
    spatial_filters: int = 2
    """D: spatial filters for each filter in time."""
    step_ms: float | None = 5.0
    """Means over this time are taken first: the paper has EEG at 128 Hz, and at 1000 Hz the same filters cost 25 times
    as much. Less than two samples are left as they are."""
    step_samples: int | None = None
    """The same in samples; null: step_ms at the data's rate, 1 sample where no rate is known."""
    kernel_ms: float | None = 250.0
    """Length of the filters in time; at most a quarter of the segment."""
    kernel_samples: int | None = None
    """The same in samples; null: kernel_ms at the data's rate, 32 samples where no rate is known."""
    pool_ms: float | None = 31.25
    """Time that the first means are taken over; at most a quarter of the segment."""
    pool_samples: int | None = None
    """The same in samples; null: pool_ms at the data's rate, 4 samples where no rate is known."""
    separable_steps: int = 16
    """Length of the second filter in time, in steps of the first means; at most half of those there are."""
    second_pool_steps: int = 8
    """Steps that the second means are taken over; at most a quarter of those there are."""


class EEGNetTrunk(Trunk):
    """The layers of EEGNet, with `feature_size` outputs in place of classes:

    means over a step → filters in time (F1) → spatial filters of each (D, ‖w‖ ≤ 1) → norm → ELU → mean over time →
    dropout → filter in time of each → mix of all → norm → ELU → mean over time → dropout → linear layer (rows of
    ‖w‖ ≤ 0.25).

    What differs from the paper: GroupNorm over the whole segment stands where it has BatchNorm, for the reason given at
    TemporalSpatialTrunk, and the norm between the filters in time and in space is left out: whitened channels need
    none, and without it the two commute, so that the channels are mixed first, at a twentieth of the multiplications
    for 28 channels. The norms are bounded where the weights are used, not by changing them after each step, so that
    every optimiser may hold copies of them. braindecode has the paper's own layers (`encoder.kind: braindecode`).
    """

    Config = EEGNetConfig

    def __init__(self, config: EEGNetConfig, *, n_channels: int, n_samples: int) -> None:
        super().__init__(config, n_channels=n_channels, n_samples=n_samples)
        self.step = config.step_samples or 1
        kernel = max(1, round((config.kernel_samples or 32) / self.step))
        self.pool = max(1, (config.pool_samples or 4) // self.step)
        steps = n_samples // self.step // self.pool
        if steps < 4:
            raise ValueError(
                f"segments of {n_samples} samples hold {steps} means over {self.pool}, and EEGNet needs 4; lower "
                "encoder.pool_samples or encoder.pool_ms"
            )
        self.second_pool = max(1, min(config.second_pool_steps, steps // 4))
        separable = max(1, min(config.separable_steps, steps // 2))
        self.filters_per_time = config.spatial_filters
        filters = config.temporal_filters * config.spatial_filters
        self.temporal = nn.Parameter(torch.randn(config.temporal_filters, 1, kernel) / kernel**0.5)
        self.spatial = nn.Parameter(torch.randn(filters, n_channels) * 0.5 / n_channels**0.5)
        self.norm = nn.GroupNorm(1, filters)
        self.separable = nn.Conv1d(filters, filters, separable, groups=filters, bias=False)
        self.mix = nn.Conv1d(filters, filters, 1, bias=False)
        self.norm_separable = nn.GroupNorm(1, filters)
        self.dropout = SampleDropout(config.dropout)
        self.dropout_separable = SampleDropout(config.dropout)
        self.head = nn.Linear(filters * (steps // self.second_pool), config.feature_size)

    def forward(self, eeg: Tensor, mean: Tensor, whitening: Tensor) -> Tensor:
        mix = bounded(self.spatial, MAX_NORM_SPATIAL) @ whitening  # [filters, C], or a segment's own
        x = mix @ (F.avg_pool1d(eeg, self.step) - mean[:, None])
        temporal = self.temporal.repeat_interleave(self.filters_per_time, dim=0)
        x = F.conv1d(padded(x, temporal.shape[2]), temporal, groups=len(temporal))
        x = self.dropout(F.avg_pool1d(F.elu(self.norm(x)), self.pool))
        x = F.elu(self.norm_separable(self.mix(self.separable(padded(x, self.separable.kernel_size[0])))))
        x = self.dropout_separable(F.avg_pool1d(x, self.second_pool))
        return F.linear(x.flatten(1), bounded(self.head.weight, MAX_NORM_HEAD), self.head.bias)


def padded(x: Tensor, kernel: int) -> Tensor:
    """x [B, S, T] with zeros before and after, so that a filter of length `kernel` gives T outputs."""
    return F.pad(x, ((kernel - 1) // 2, kernel // 2))


def bounded(weight: Tensor, max_norm: float) -> Tensor:
    """Rows [N, …] scaled down to the Euclidean norm `max_norm` where they are longer."""
    norms = torch.linalg.vector_norm(weight, dim=1, keepdim=True)
    return weight * (max_norm / norms.clamp_min(max_norm))
