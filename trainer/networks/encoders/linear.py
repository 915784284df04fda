"""Means of short windows and a linear map: a linear decoder as an encoder, for few segments.

Shapes: B segments, C channels, T samples, F features, N windows.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from neuroimagen.trainer.networks.encoders.base import EncoderConfig, Trunk
from neuroimagen.trainer.networks.fitted_projection import FittedProjection
from neuroimagen.trainer.networks.randomness import SampleDropout


@dataclass(frozen=True, kw_only=True)
class LinearConfig(EncoderConfig):
    """`encoder.kind: linear`: the evoked response in windows of 40 ms, by its principal components.

    For up to some hundreds of segments, where convolutions learn them by heart: it has no more to learn than a ridge
    regression has, and is trained by the stage's own loss.
    """

    kind: Literal["linear"] = "linear"
    dropout: float = 0.5
    """Share of the components that are zeroed in training."""
    window_ms: float | None = 40.0
    """Length of the windows whose means are taken."""
    window_samples: int | None = None
    """The same in samples; null: window_ms at the data's rate, one sample where no rate is known."""
    components: int = 100
    """Principal components of the windows that are kept, fitted on training segments."""


class LinearTrunk(Trunk):
    """f(x) = W P (vec(windows(x)) − μ): means of the whitened channels over N windows, principal components P that are
    fitted before the first step, and one linear layer.
    """

    Config = LinearConfig

    def __init__(self, config: LinearConfig, *, n_channels: int, n_samples: int) -> None:
        super().__init__(config, n_channels=n_channels, n_samples=n_samples)
        window = config.window_samples or 1
        if window > n_samples:
            raise ValueError(f"encoder.window_samples {window} is more than the {n_samples} samples of a segment")
        self.num_windows = max(1, round(n_samples / window))
        self.project = FittedProjection(n_channels * self.num_windows, config.components)
        self.dropout = SampleDropout(config.dropout)
        self.head = nn.Linear(self.project.num_components, config.feature_size)

    def windows(self, eeg: Tensor, mean: Tensor, whitening: Tensor) -> Tensor:
        """Means of the whitened channels over nearly equal windows that cover the segment: [B, C · N]."""
        # Means first: they and the whitening commute, and there are fewer windows than samples.
        means = nn.functional.adaptive_avg_pool1d(eeg - mean[:, None], self.num_windows)
        return (whitening @ means).flatten(1)

    def forward(self, eeg: Tensor, mean: Tensor, whitening: Tensor) -> Tensor:
        features: Tensor = self.head(self.dropout(self.project(self.windows(eeg, mean, whitening))))
        return features

    @torch.no_grad()
    def fit(self, segments: Iterable[Tensor], mean: Tensor, whitening: Tensor) -> None:
        self.project.fit(torch.cat([self.windows(eeg, mean, whitening) for eeg in segments]))
