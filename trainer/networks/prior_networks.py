"""What denoises an embedding: the MLP of ATM's diffusion prior (Li et al. 2024), or diffusers' PriorTransformer.

Both map a noisy embedding [B, E], timesteps [B], a condition [B, P] and `dropped` (bool [B], whose condition is left
out) to [B, E]. Shapes: S_0 … S_n sizes of the MLP's levels.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neuroimagen.trainer.networks.randomness import SampleDropout


class Level(nn.Module):
    """One step between two levels: time and condition are added, then Linear, LayerNorm, SiLU, dropout."""

    def __init__(self, size_in: int, size_out: int, *, time_size: int, condition_size: int, dropout: float) -> None:
        super().__init__()
        from diffusers.models.embeddings import TimestepEmbedding

        self.time = TimestepEmbedding(time_size, size_in)
        self.condition = nn.Linear(condition_size, size_in)
        self.layers = nn.Sequential(
            nn.Linear(size_in, size_out), nn.LayerNorm(size_out), nn.SiLU(), SampleDropout(dropout)
        )

    def forward(self, x: Tensor, time: Tensor, condition: Tensor, kept: Tensor) -> Tensor:
        """x [B, S_i], time [B, T], condition [B, P], kept [B, 1] → [B, S_j]."""
        mixed: Tensor = self.layers(x + self.time(time) + kept * self.condition(condition))
        return mixed


class PriorMLP(nn.Module):
    """Down the levels and up again; what enters a level on the way down is added to what comes out of it on the way up.

    Where a condition is dropped, nothing is added for it, as ATM does for whole batches.
    """

    def __init__(
        self,
        *,
        embedding_size: int,
        condition_size: int,
        sizes: Sequence[int],
        time_size: int,
        dropout: float,
    ) -> None:
        """`sizes`: S_0 … S_n; ATM's are 1024, 512, 256, 128, 64. `time_size`: length of the sinusoidal embedding."""
        super().__init__()
        from diffusers.models.embeddings import Timesteps

        more: dict[str, Any] = {"time_size": time_size, "condition_size": condition_size, "dropout": dropout}
        self.time = Timesteps(time_size, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.enter = nn.Sequential(nn.Linear(embedding_size, sizes[0]), nn.LayerNorm(sizes[0]), nn.SiLU())
        steps = list(itertools.pairwise(sizes))
        self.down = nn.ModuleList([Level(large, small, **more) for large, small in steps])
        self.up = nn.ModuleList([Level(small, large, **more) for large, small in reversed(steps)])
        self.leave = nn.Linear(sizes[0], embedding_size)

    def forward(self, noisy: Tensor, timesteps: Tensor, condition: Tensor, dropped: Tensor) -> Tensor:
        time = self.time(timesteps).to(noisy.dtype)
        kept = (~dropped).to(noisy.dtype)[:, None]
        x = self.enter(noisy)
        entered = []
        for level in self.down:
            entered.append(x)
            x = level(x, time, condition, kept)
        for level in self.up:
            x = level(x, time, condition, kept) + entered.pop()
        predicted: Tensor = self.leave(x)
        return predicted


class PriorTokens(nn.Module):
    """PriorTransformer without text: its tokens are the condition, the time, the noisy embedding and the prediction.

    A dropped condition is zero, which is the mean one where conditions come standardised. Dropout draws from the
    samples' own numbers, like every other here.
    """

    def __init__(
        self,
        *,
        embedding_size: int,
        condition_size: int,
        num_layers: int,
        num_heads: int,
        head_width: int,
        dropout: float,
    ) -> None:
        super().__init__()
        from diffusers import PriorTransformer

        network = PriorTransformer(
            num_attention_heads=num_heads,
            attention_head_dim=head_width,
            num_layers=num_layers,
            embedding_dim=embedding_size,
            embedding_proj_dim=condition_size,
            num_embeddings=0,
            additional_embeddings=4,
            encoder_hid_proj_type=None,
            dropout=dropout,
        )
        for module in list(network.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.Dropout):
                    setattr(module, name, SampleDropout(child.p))
        # Statistics that only diffusers' own pipeline uses: here the embeddings come standardised.
        network.clip_mean.requires_grad_(False)
        network.clip_std.requires_grad_(False)
        self.transformer = network

    def forward(self, noisy: Tensor, timesteps: Tensor, condition: Tensor, dropped: Tensor) -> Tensor:
        condition = torch.where(dropped[:, None], torch.zeros_like(condition), condition)
        predicted: Tensor = self.transformer(noisy, timesteps, condition, return_dict=False)[0]
        return predicted
