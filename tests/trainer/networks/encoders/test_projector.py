"""The projector: its equation, and dropout in the residual block alone."""

import torch
from torch.nn import functional as F

from neuroimagen.trainer.networks.encoders.projector import projector


def test_it_is_a_linear_layer_a_residual_block_and_a_norm() -> None:
    torch.manual_seed(0)
    network = projector(7, 5, 0.5).eval()
    first, residual, norm = network
    x = torch.randn(3, 7)
    hidden = x @ first.weight.T + first.bias
    inner = residual.layers[1]
    expected = hidden + F.gelu(hidden) @ inner.weight.T + inner.bias
    assert torch.allclose(network(x), F.layer_norm(expected, (5,), norm.weight, norm.bias), atol=1e-6)


def test_dropout_leaves_the_linear_path_alone() -> None:
    torch.manual_seed(0)
    network = projector(7, 5, 0.999).train()  # with this seed everything in the block is dropped
    x = torch.randn(3, 7)
    assert torch.allclose(network(x), network[2](network[0](x)), atol=1e-6)
