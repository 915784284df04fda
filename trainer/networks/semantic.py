"""EEG → the hidden states that a caption has in the text encoder (Lan et al. 2023, §3.3).

Shapes: B segments, C channels, T samples, F features, L tokens, D width of the hidden states, P of the
pooled state.
"""

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from neuroimagen.data_shards.dataset.latent_store import LatentStore
from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder
from neuroimagen.trainer.networks.pretrained import PretrainedModule
from neuroimagen.trainer.networks.randomness import SampleDropout


class SemanticModel(PretrainedModule):
    """EEG [B, C, T], and with subject layers the subjects [B] → hidden states [B, L, D] of the text encoder, and where
    the model was made with a `pooled_size` P the pooled state [B, P] that SDXL's U-Net takes beside them.

    Most positions of a short caption are padding, and most of a hidden state is common to all captions. The head
    therefore predicts standardised states; mean and standard deviation of the training part's targets are buffers, so
    what comes out is in the text encoder's own units.
    """

    model_type: ClassVar[str] = "semantic-model"
    target_mean: Tensor
    target_std: Tensor
    pooled_mean: Tensor
    pooled_std: Tensor

    def __init__(
        self,
        *,
        encoder: dict[str, Any],
        text_shape: tuple[int, int],
        hidden_size: int,
        head_dropout: float,
        pooled_size: int | None = None,
    ) -> None:
        super().__init__()
        self.config = {
            "encoder": encoder,
            "text_shape": list(text_shape),
            "hidden_size": hidden_size,
            "head_dropout": head_dropout,
        }
        if pooled_size is not None:  # without one the export is that of earlier versions
            self.config["pooled_size"] = pooled_size
        num_tokens, width = text_shape
        self.text_shape = (num_tokens, width)
        self.pooled_size = pooled_size
        self.encoder = EEGEncoder(**encoder)
        feature_size = self.encoder.feature_size
        self.head = nn.Sequential(
            nn.LayerNorm(feature_size),
            nn.Linear(feature_size, hidden_size),
            nn.GELU(),
            SampleDropout(head_dropout),
            nn.Linear(hidden_size, num_tokens * width),
        )
        self.register_buffer("target_mean", torch.zeros(num_tokens, width))
        self.register_buffer("target_std", torch.ones(num_tokens, width))
        if pooled_size is not None:
            self.pooled_head = nn.Linear(hidden_size, pooled_size)
            self.register_buffer("pooled_mean", torch.zeros(pooled_size))
            self.register_buffer("pooled_std", torch.ones(pooled_size))

    def forward(
        self, eeg: Tensor, subject: Tensor | None = None, *, with_pooled: bool = False
    ) -> Tensor | tuple[Tensor, Tensor | None]:
        """The hidden states; with_pooled: and the pooled state, as `condition` gives them."""
        features = self.encoder(eeg, subject)
        return self._condition(features) if with_pooled else self.from_features(features)

    def condition(self, eeg: Tensor, subject: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """What the U-Net is conditioned on: hidden states [B, L, D], and the pooled state [B, P] where the model has
        one.
        """
        return self._condition(self.encoder(eeg, subject))

    def from_features(self, features: Tensor) -> Tensor:
        """The encoder's features [B, F] → hidden states [B, L, D]."""
        return self._condition(features)[0]

    def _condition(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.pooled_size is None:
            flat, pooled = self.head(features), None
        else:
            shared = self.head[:-1](features)
            flat, pooled = self.head[-1](shared), self.pooled_head(shared) * self.pooled_std + self.pooled_mean
        return flat.unflatten(1, self.text_shape) * self.target_std + self.target_mean, pooled

    def with_encoder(self, encoder: EEGEncoder) -> "SemanticModel":
        """The same head on `encoder`, which computes the same (EEGEncoder.for_subjects)."""
        if encoder is not self.encoder:
            self.encoder = encoder
            self.config = {**self.config, "encoder": encoder.config}
        return self

    def standardised(self, difference: Tensor) -> Tensor:
        """A difference of hidden states [..., L, D] in units of the training targets' spread; 0 where that is 0."""
        return _in_units_of(self.target_std, difference)

    def distance(self, predicted: Tensor, target: Tensor) -> Tensor:
        """‖h − ĥ‖² [B] of hidden states [B, L, D] in standardised units, divided by the number of entries that vary: 1
        for predicting the mean.
        """
        return _distance(self.target_std, predicted - target)

    def pooled_distance(self, predicted: Tensor, target: Tensor) -> Tensor:
        """The same of pooled states [B, P]: [B]."""
        return _distance(self.pooled_std, predicted - target)

    def fit_targets(self, store: LatentStore, stimuli: np.ndarray, *, pooled: LatentStore | None = None) -> None:
        """Set mean and standard deviation from the latents of `stimuli` (rows; repeated ones count as often).

        `pooled`: the latents of the pooled states, where the model has them.
        """
        self._fit(store, stimuli, self.target_mean, self.target_std)
        if pooled is not None:
            self._fit(pooled, stimuli, self.pooled_mean, self.pooled_std)

    @torch.no_grad()
    def _fit(self, store: LatentStore, stimuli: np.ndarray, into_mean: Tensor, into_std: Tensor) -> None:
        unique, counts = np.unique(stimuli, return_counts=True)
        total = torch.zeros(into_mean.shape, dtype=torch.float64)
        square = torch.zeros(into_mean.shape, dtype=torch.float64)
        for start in range(0, len(unique), 64):  # hidden states of all captions need not fit in memory
            states = store.get(unique[start : start + 64]).double()
            weights = torch.from_numpy(counts[start : start + 64]).double()
            total += torch.einsum("n,n...->...", weights, states)
            square += torch.einsum("n,n...->...", weights, states.square())
        mean = total / len(stimuli)
        std = (square / len(stimuli) - mean.square()).clamp_min(0).sqrt()
        # Below this an entry's spread is rounding (the start token's state, say): it is constant.
        constant = std <= 1e-4 * mean.abs().clamp_min(1e-3)
        into_mean.copy_(mean)
        into_std.copy_(torch.where(constant, 0.0, std))


def _in_units_of(std: Tensor, difference: Tensor) -> Tensor:
    """difference / std; 0 where that is 0."""
    varies = std > 0
    return torch.where(varies, difference / std.where(varies, 1.0), 0.0)


def _distance(std: Tensor, difference: Tensor) -> Tensor:
    """Mean square [B] of differences [B, …] in units of `std`, over the entries that vary."""
    squares = _in_units_of(std, difference).square()
    return squares.sum(dim=tuple(range(1, squares.ndim))) / (std > 0).sum().clamp_min(1)
