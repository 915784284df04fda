"""The masked transformer encoder: EEG as a row of tokens, some of them hidden in pre-training.

Tokens are short stretches of time over all channels (DreamDiffusion, Bai et al. 2023); as in MAE (He et al. 2022) the
encoder sees the tokens that are left, and a light decoder draws the hidden ones.

Shapes: B segments, C channels, T samples, N tokens, V visible tokens, W width.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroimagen.trainer.networks.encoders.base import EEGEncoder, EncoderConfig
from neuroimagen.trainer.networks.pretrained import PretrainedModule
from neuroimagen.trainer.networks.randomness import SampleDropout


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


class TransformerTrunk(nn.Module):
    """Tokens of whitened EEG, learned positions, transformer blocks; the mean token becomes the features."""

    def __init__(self, config: EncoderConfig, *, n_channels: int, n_samples: int) -> None:
        super().__init__()
        if config.width % config.heads:
            raise ValueError(f"encoder.width {config.width} is no multiple of encoder.heads {config.heads}")
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


class MaskedModel(PretrainedModule):
    """Predicts hidden tokens from visible ones. The encoder is what pre-training leaves; the decoder is thrown away."""

    model_type: ClassVar[str] = "masked-model"

    def __init__(self, *, encoder: dict[str, Any], decoder_width: int, decoder_depth: int) -> None:
        super().__init__()
        self.config = {"encoder": encoder, "decoder_width": decoder_width, "decoder_depth": decoder_depth}
        self.encoder = EEGEncoder(**encoder)
        trunk = self.trunk
        heads = max(1, decoder_width // 32)
        self.enter = nn.Linear(trunk.norm.normalized_shape[0], decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(decoder_width))
        self.position = nn.Parameter(0.02 * torch.randn(trunk.num_tokens, decoder_width))
        self.decoder = nn.ModuleList([Block(decoder_width, heads, 0.0) for _ in range(decoder_depth)])
        self.leave = nn.Sequential(nn.LayerNorm(decoder_width), nn.Linear(decoder_width, trunk.embed.in_features))
        trunk.head.requires_grad_(False)  # features are none of this model's business

    @property
    def trunk(self) -> TransformerTrunk:
        trunk = self.encoder.trunk
        if not isinstance(trunk, TransformerTrunk):
            raise ValueError("masked pre-training needs encoder.kind: transformer")
        return trunk

    def forward(self, eeg: Tensor, order: Tensor, num_visible: int, subject: Tensor | None = None) -> Tensor:
        """Mean squared error [B] of the hidden tokens. order: int64 [B, N], a permutation of the tokens each; the first
        `num_visible` of it are seen. subject: int64 [B], for subject layers.
        """
        trunk, mean = self.trunk, self.encoder.channel_mean
        tokens = trunk.tokens(eeg, mean, self.encoder.whitening)
        inputs = tokens
        if self.encoder.subject_layers is not None:
            # What is to be drawn stays as recorded: a map that shrank its own target would be a way to lose nothing.
            inputs = trunk.tokens(eeg, mean, self.encoder.projection(subject))
        seen = self.enter(trunk.encode(inputs, order[:, :num_visible]))  # [B, V, Wd]
        hidden = self.mask_token.expand(len(eeg), trunk.num_tokens - num_visible, -1)
        shuffled = torch.cat([seen, hidden.to(seen.dtype)], dim=1)
        x = torch.zeros_like(shuffled).scatter(1, order[:, :, None].expand_as(shuffled), shuffled) + self.position
        drawn = self.leave(run_blocks(self.decoder, x, checkpointing=trunk.checkpointing))
        error = (drawn - tokens).float().square().mean(2)  # [B, N]
        return error.gather(1, order[:, num_visible:]).mean(1)
