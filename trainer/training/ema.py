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
        averages: list[Tensor] = list(self.network.parameters())
        parameters: list[Tensor] = list(network.parameters())
        buffers, newest = list(self.network.buffers()), list(network.buffers())
        assert (len(averages), len(buffers)) == (len(parameters), len(newest))
        # All at once: a U-Net has 686 parameters, and on a GPU launching costs more than averaging a small one.
        torch._foreach_lerp_(averages, parameters, 1.0 - decay)
        if buffers:
            torch._foreach_copy_(buffers, newest)

    def state(self) -> dict[str, Tensor]:
        """Copies of the average's tensors, on the CPU, by name: what comes later does not change them."""
        state = self.network.state_dict()
        return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.network.load_state_dict(dict(state))
