"""Masked pre-training of the transformer encoder (DreamDiffusion, Bai et al. 2023).

As in MAE (He et al. 2022) the encoder sees the tokens that are left, and a light decoder predicts the hidden ones.

Shapes: B segments, C channels, T samples, N tokens, V visible tokens, W width.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder
from neuroimagen.trainer.networks.encoders.transformer import Block, TransformerTrunk, run_blocks
from neuroimagen.trainer.networks.pretrained import PretrainedModule


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
        trunk.head.requires_grad_(False)  # pre-training does not use the features

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
