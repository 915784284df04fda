"""Exponential moving average of a network's weights: θ̄ ← d·θ̄ + (1 − d)·θ after every step."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class EMA:
    """A second copy of a network whose parameters are averaged over steps; its buffers are the network's newest.

    Early on the decay is min(d, (1 + step) / (10 + step)), so that the random start is forgotten soon.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self._decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights after `step` (1-based)."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for average, parameter in zip(self.network.parameters(), network.parameters(), strict=True):
            average.lerp_(parameter.to(average.dtype), 1.0 - decay)
        for copied, buffer in zip(self.network.buffers(), network.buffers(), strict=True):
            copied.copy_(buffer)

    def state(self) -> dict[str, Tensor]:
        """Copies of the average's tensors by name, on the CPU: they are written while training changes the average."""
        tensors = self.network.state_dict().items()
        return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors}

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.network.load_state_dict(dict(state))
