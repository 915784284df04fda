"""An LSTM over the samples, as in Spampinato et al. 2017 and Brain2Image."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from neuroimagen.trainer.networks.encoders.base import EncoderConfig, Trunk
from neuroimagen.trainer.networks.randomness import SampleDropout


@dataclass(frozen=True, kw_only=True)
class LSTMConfig(EncoderConfig):
    """`encoder.kind: lstm`: `feature_size` hidden units, last step (Brain2Image)."""

    kind: Literal["lstm"] = "lstm"
    rectified: bool = False
    """Features are cut at 0 (ReLU after the last layer), as Brain2Image's are."""


class LSTMTrunk(Trunk):
    """One LSTM layer; the hidden state after the last sample, then one linear layer.

    Spampinato et al. 2017; with `rectified` the encoder of Brain2Image (Kavasidis et al. 2017).
    """

    Config = LSTMConfig

    def __init__(self, config: LSTMConfig, *, n_channels: int, n_samples: int) -> None:
        super().__init__(config, n_channels=n_channels, n_samples=n_samples)
        self.lstm = nn.LSTM(n_channels, config.feature_size, batch_first=True)
        self.dropout = SampleDropout(config.dropout)
        self.head = nn.Linear(config.feature_size, config.feature_size)
        self.rectified = config.rectified

    def forward(self, eeg: Tensor, mean: Tensor, whitening: Tensor) -> Tensor:
        x = whitening @ (eeg - mean[:, None])
        _, (hidden, _) = self.lstm(x.transpose(1, 2))
        features = self.head(self.dropout(hidden[-1]))
        return F.relu(features) if self.rectified else features
