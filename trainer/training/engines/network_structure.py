"""A network's structure without its memory, and networks made of that structure and tensors that exist already."""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def structure_of(network: nn.Module) -> nn.Module:
    """A copy of `network` whose parameters and buffers are on the meta device, so that they take no memory."""
    parameters = [torch.empty_like(parameter, device="meta") for parameter in network.parameters()]
    buffers = [torch.empty_like(buffer, device="meta") for buffer in network.buffers()]
    return _copy_with(network, parameters, buffers)


def with_tensors(structure: nn.Module, parameters: Iterable[Tensor], buffers: Iterable[Tensor]) -> nn.Module:
    """A network like `structure` whose parameters and buffers are the given tensors, in the network's order.

    The tensors are not copied; the parameters take no gradients.
    """
    network = _copy_with(structure, parameters, buffers)
    for module in network.modules():
        if isinstance(module, nn.RNNBase):
            module.flatten_parameters()  # on a GPU cuDNN wants them in one piece, and warns at every call otherwise
    return network


def _copy_with(network: nn.Module, parameters: Iterable[Tensor], buffers: Iterable[Tensor]) -> nn.Module:
    # What deepcopy's memo holds is taken for copied: shared weights stay shared, and nothing is allocated.
    memo: dict[int, object] = {
        id(old): nn.Parameter(new, requires_grad=False)
        for old, new in zip(network.parameters(), parameters, strict=True)
    }
    memo |= {id(old): new for old, new in zip(network.buffers(), buffers, strict=True)}
    return copy.deepcopy(network, memo)
