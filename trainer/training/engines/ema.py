"""Exponential moving average of a network's weights: θ̄ ← d·θ̄ + (1 − d)·θ after every step.

diffusers' EMAModel would change the results: its decay is that of the step before, and in the first eight steps, where
1 − d is at least one half, its s − (1 − d)·(s − θ) rounds otherwise than interpolation. It also allocates a copy of all
weights at every step, and takes ZeRO 3's shards, which require no gradients, for frozen weights.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class EMA:
    """The average of the weights that this rank holds (`Engine.held_weights`): at ZeRO 3 of its shards alone.

    Early on the decay is min(d, (1 + step) / (10 + step)), so that the random start is forgotten soon. Buffers are not
    averaged: an averaged network has the newest.
    """

    def __init__(self, weights: Sequence[Tensor], decay: float) -> None:
        self.weights = [weight.detach().clone() for weight in weights]
        """The averages, in the order and shapes of the weights."""
        self._decay = decay

    @torch.no_grad()
    def update(self, weights: Sequence[Tensor], step: int) -> None:
        """Take in the weights after `step` (1-based)."""
        decay = min(self._decay, (1 + step) / (10 + step))
        assert len(weights) == len(self.weights)
        # All at once: a U-Net has 686 parameters, and on a GPU launching costs more than averaging a small one.
        torch._foreach_lerp_(self.weights, list(weights), 1.0 - decay)
