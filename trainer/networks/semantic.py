"""EEG → the hidden states that a caption has in the text encoder (Lan et al. 2023, §3.3).

Shapes: B segments, C channels, T samples, F features, L tokens, D width of the text encoder.
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
    """EEG [B, C, T], and with subject layers the subjects [B] → hidden states [B, L, D] of the text encoder.

    Most positions of a short caption are padding, and most of a hidden state is common to all captions. The head
    therefore predicts standardised states; mean and standard deviation of the training part's targets are buffers, so
    what comes out is in the text encoder's own units.
    """

    model_type: ClassVar[str] = "semantic-model"
    target_mean: Tensor
    target_std: Tensor

    def __init__(
        self, *, encoder: dict[str, Any], text_shape: tuple[int, int], hidden_size: int, head_dropout: float
    ) -> None:
        super().__init__()
        self.config = {
            "encoder": encoder,
            "text_shape": list(text_shape),
            "hidden_size": hidden_size,
            "head_dropout": head_dropout,
        }
        num_tokens, width = text_shape
        self.text_shape = (num_tokens, width)
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

    def forward(self, eeg: Tensor, subject: Tensor | None = None) -> Tensor:
        return self.from_features(self.encoder(eeg, subject))

    def from_features(self, features: Tensor) -> Tensor:
        """The encoder's features [B, F] → hidden states [B, L, D]."""
        return self.head(features).unflatten(1, self.text_shape) * self.target_std + self.target_mean

    def with_encoder(self, encoder: EEGEncoder) -> "SemanticModel":
        """The same head on `encoder`, which computes the same (EEGEncoder.for_subjects)."""
        if encoder is not self.encoder:
            self.encoder = encoder
            self.config = {**self.config, "encoder": encoder.config}
        return self

    def standardised(self, difference: Tensor) -> Tensor:
        """A difference of hidden states [..., L, D] in units of the training targets' spread; 0 where that is 0."""
        varies = self.target_std > 0
        return torch.where(varies, difference / self.target_std.where(varies, 1.0), 0.0)

    @torch.no_grad()
    def fit_targets(self, store: LatentStore, stimuli: np.ndarray) -> None:
        """Set mean and standard deviation from the latents of `stimuli` (rows; repeated ones count as often)."""
        unique, counts = np.unique(stimuli, return_counts=True)
        total = torch.zeros(self.text_shape, dtype=torch.float64)
        square = torch.zeros(self.text_shape, dtype=torch.float64)
        for start in range(0, len(unique), 64):  # hidden states of all captions need not fit in memory
            states = store.get(unique[start : start + 64]).double()
            weights = torch.from_numpy(counts[start : start + 64]).double()
            total += torch.einsum("n,nld->ld", weights, states)
            square += torch.einsum("n,nld->ld", weights, states.square())
        mean = total / len(stimuli)
        std = (square / len(stimuli) - mean.square()).clamp_min(0).sqrt()
        # Below this an entry's spread is rounding (the start token's state, say): it is constant.
        constant = std <= 1e-4 * mean.abs().clamp_min(1e-3)
        self.target_mean.copy_(mean)
        self.target_std.copy_(torch.where(constant, 0.0, std))
