"""A transformer over tokens of time, which the masked stage can pre-train.

Tokens are short stretches of time over all channels (DreamDiffusion, Bai et al. 2023).

Shapes: B segments, C channels, T samples, N tokens, V visible tokens, W width.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroimagen.trainer.networks.encoders.base import EncoderConfig, Trunk
from neuroimagen.trainer.networks.randomness import SampleDropout


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(EncoderConfig):
    """`encoder.kind: transformer`: tokens of time, the encoder that the masked stage can pre-train (DreamDiffusion)."""

    kind: Literal["transformer"] = "transformer"
    token_samples: int = 4
    """Samples of a token, over all channels."""
    width: int = 128
    """W: size of a token."""
    depth: int = 4
    """Number of blocks."""
    heads: int = 4
    """Heads of attention."""
    block_dropout: float = 0.1
    """Dropout after each block's dense layers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.heads:
            raise ValueError(f"encoder.width {self.width} is no multiple of encoder.heads {self.heads}")


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = SampleDropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, W] → [B, N, W]."""
        q, k, v = self.qkv(self.norm_attention(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.dropout(self.mlp(self.norm_mlp(x)))


def run_blocks(blocks: nn.ModuleList, x: Tensor, *, checkpointing: bool) -> Tensor:
    """Blocks in turn; with `checkpointing` each keeps its input only and is computed again in the backward pass."""
    for block in blocks:
        if checkpointing and torch.is_grad_enabled():
            x = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False, preserve_rng_state=False)
        else:
            x = block(x)
    return x


class TransformerTrunk(Trunk):
    """Tokens of whitened EEG, learned positions, transformer blocks; the mean token becomes the features."""

    Config = TransformerConfig

    def __init__(self, config: TransformerConfig, *, n_channels: int, n_samples: int) -> None:
        super().__init__(config, n_channels=n_channels, n_samples=n_samples)
        self.token_samples = config.token_samples
        self.num_tokens = n_samples // config.token_samples  # samples beyond the last whole token are left out
        if self.num_tokens < 2:
            raise ValueError(f"segments of {n_samples} samples hold fewer than two tokens; lower encoder.token_samples")
        self.checkpointing = False
        self.embed = nn.Linear(n_channels * config.token_samples, config.width)
        self.position = nn.Parameter(0.02 * torch.randn(self.num_tokens, config.width))
        self.blocks = nn.ModuleList(
            [Block(config.width, config.heads, config.block_dropout) for _ in range(config.depth)]
        )
        self.norm = nn.LayerNorm(config.width)
        self.dropout = SampleDropout(config.dropout)
        self.head = nn.Linear(config.width, config.feature_size)

    def tokens(self, eeg: Tensor, mean: Tensor, whitening: Tensor) -> Tensor:
        """EEG [B, C, T], whitening [C, C] or [B, C, C] → whitened tokens [B, N, C · token_samples]."""
        x = whitening @ (eeg[:, :, : self.num_tokens * self.token_samples] - mean[:, None])
        return x.unflatten(2, (self.num_tokens, self.token_samples)).transpose(1, 2).flatten(2)

    def encode(self, tokens: Tensor, visible: Tensor | None = None) -> Tensor:
        """[B, N, …] → [B, N, W]; with `visible` (int64 [B, V], positions) only those tokens: [B, V, W]."""
        x = self.embed(tokens) + self.position
        if visible is not None:
            x = x.gather(1, visible[:, :, None].expand(-1, -1, x.shape[2]))
        return self.norm(run_blocks(self.blocks, x, checkpointing=self.checkpointing))

    def forward(self, eeg: Tensor, mean: Tensor, whitening: Tensor) -> Tensor:
        return self.head(self.dropout(self.encode(self.tokens(eeg, mean, whitening)).mean(1)))
