"""UBP's encoder: one linear map of the whole segment, and a residual block."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from neuroimagen.trainer.networks.encoders.base import EncoderConfig, Trunk
from neuroimagen.trainer.networks.encoders.projector import projector


@dataclass(frozen=True, kw_only=True)
class FlatConfig(EncoderConfig):
    """`encoder.kind: flat`: a projection of all channels and samples at once, C · T inputs to `feature_size` (UBP).

    UBP's sizes: feature_size 1024, dropout 0.3, 17 channels × 250 samples.
    """

    kind: Literal["flat"] = "flat"
    feature_size: int = 1024
    dropout: float = 0.3
    """Share of the residual block's outputs that are zeroed in training."""


class FlatTrunk(Trunk):
    """The flat projection of UBP (Wu et al. 2025): h = W vec(x), features LayerNorm(h + dropout(V GELU(h))).

    The residual block and the norm are UBP's projector: with `alignment.head: none` the features are the embedding.
    """

    Config = FlatConfig

    def __init__(self, config: FlatConfig, *, n_channels: int, n_samples: int) -> None:
        super().__init__(config, n_channels=n_channels, n_samples=n_samples)
        self.projector = projector(n_channels * n_samples, config.feature_size, config.dropout)

    def forward(self, eeg: Tensor, mean: Tensor, whitening: Tensor) -> Tensor:
        features: Tensor = self.projector((whitening @ (eeg - mean[:, None])).flatten(1))
        return features
