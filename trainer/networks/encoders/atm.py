"""ATM's encoder (Li et al. 2024): a transformer over channels, before NICE's convolutions and projector.

Shapes: B segments, C channels, T samples, N tokens, W width, H heads.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroimagen.trainer.networks.encoders.nice import NICETrunk, TSConvConfig
from neuroimagen.trainer.networks.randomness import SampleDropout


@dataclass(frozen=True, kw_only=True)
class ATMConfig(TSConvConfig):
    """`encoder.kind: atm`: every channel is a token, its samples the token's values. The defaults are ATM's sizes, at
    250 samples of 250 Hz.
    """

    kind: Literal["atm"] = "atm"
    feature_size: int = 1024
    dropout: float = 0.5
    """Share that is zeroed in training: of the convolutions' outputs, and of the projector's residual block."""
    temporal_filters: int = 40
    kernel_samples: int = 25
    stride_samples: int = 5
    spatial_filters: int = 40
    width: int | None = None
    """W: size of a token, which is what the convolutions take for samples; null: the number of samples."""
    depth: int = 1
    """Number of blocks."""
    heads: int = 4
    """Heads of attention, each of width / heads numbers, rounded down."""
    feedforward_width: int = 256
    """Width of the dense layer within a block."""
    block_dropout: float = 0.25
    """Dropout of the tokens, and within the blocks."""
    subject_token: bool = False
    """A learnt token of the segment's subject beside those of the channels; a subject without one gets the mean of all
    (unknown_subject). The data set or data.subjects says who has one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width is not None and self.width < self.heads:
            raise ValueError(f"encoder.width {self.width} is less than encoder.heads {self.heads}")

    @property
    def reads_subjects(self) -> bool:
        return self.subject_layers or self.subject_token


class ChannelBlock(nn.Module):
    """A post-norm transformer block whose heads need not fill the width: 4 × 62 of 250.

    Attention's own dropout draws from a sample's numbers like every other: torch's fused attention would draw from the
    rank's generator.
    """

    def __init__(self, width: int, heads: int, feedforward_width: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.head_size = width // heads
        self.qkv = nn.Linear(width, 3 * heads * self.head_size)
        self.dropout_attention = SampleDropout(dropout)
        self.out = nn.Linear(heads * self.head_size, width)
        self.dropout_out = SampleDropout(dropout)
        self.norm_attention = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, feedforward_width),
            nn.GELU(),
            SampleDropout(dropout),
            nn.Linear(feedforward_width, width),
            SampleDropout(dropout),
        )
        self.norm_mlp = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, W] → [B, N, W]."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [B, H, N, W / H]
        weights = self.dropout_attention(F.softmax(q @ k.transpose(2, 3) / math.sqrt(self.head_size), dim=3))
        x = self.norm_attention(x + self.dropout_out(self.out((weights @ v).transpose(1, 2).flatten(2))))
        mixed: Tensor = self.norm_mlp(x + self.mlp(x))
        return mixed


class ATMTrunk(NICETrunk):
    """Whitened channels as tokens, and the subject's; transformer blocks; the channels' tokens then go through NICE's
    convolutions in place of their samples, and through its projector: Linear, residual block, LayerNorm.

    With `alignment.head: none` the features are the embedding, and no layer is there twice. As in NICETrunk, GroupNorm
    stands where ATM has BatchNorm.
    """

    Config = ATMConfig
    unit = "tokens"

    def __init__(self, config: ATMConfig, *, n_channels: int, n_samples: int) -> None:
        width = n_samples if config.width is None else config.width
        if width < config.heads:
            raise ValueError(f"encoder.heads {config.heads} are more than the {width} samples of a token")
        super().__init__(config, n_channels=n_channels, n_samples=width)
        self.n_channels = n_channels
        self.token_size = width if config.subject_token else None
        self.embed = nn.Linear(n_samples, width)
        self.dropout_tokens = SampleDropout(config.block_dropout)
        self.blocks = nn.ModuleList(
            [
                ChannelBlock(width, config.heads, config.feedforward_width, config.block_dropout)
                for _ in range(config.depth)
            ]
        )
        self.norm_tokens = nn.LayerNorm(width)

    def forward(self, eeg: Tensor, mean: Tensor, whitening: Tensor, token: Tensor | None = None) -> Tensor:
        x = self.embed(whitening @ (eeg - mean[:, None]))  # [B, C, W]
        if token is not None:
            x = torch.cat([x, token[:, None].to(x.dtype)], dim=1)
        x = self.dropout_tokens(x)
        for block in self.blocks:
            x = block(x)
        return self.convolve(self.norm_tokens(x)[:, : self.n_channels])
