"""A structure takes no memory; a network made of it is the original with other tensors."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from neuroimagen.trainer.training.engines.network_structure import structure_of, with_tensors


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 5, batch_first=True)
        self.norm = nn.BatchNorm1d(5)
        self.register_buffer("scale", torch.tensor(3.0), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.lstm(x)[0][:, -1]) * self.scale


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x)[:, -1])


def spectral() -> nn.Module:
    return nn.Sequential(nn.Flatten(), spectral_norm(nn.Linear(12, 4)))


@pytest.mark.parametrize("make", [Recurrent, Tied, spectral])
def test_a_network_of_the_structure_computes_the_same(make: type[nn.Module]) -> None:
    network = make().eval()
    structure = structure_of(network)
    tensors = [*structure.parameters(), *structure.buffers()]
    assert all(tensor.is_meta for tensor in tensors)
    assert structure.state_dict().keys() == network.state_dict().keys()
    parameters = [parameter.detach().clone() for parameter in network.parameters()]
    buffers = [buffer.clone() for buffer in network.buffers()]
    made = with_tensors(structure, parameters, buffers)
    assert not made.training
    assert not any(parameter.requires_grad for parameter in made.parameters())
    for new, given in zip([*made.parameters(), *made.buffers()], [*parameters, *buffers], strict=True):
        assert new.data_ptr() == given.data_ptr()  # not copied
    x = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(made(x), network(x))
    before = network(x)
    for parameter in parameters:
        parameter.zero_()
    assert not torch.equal(made(x), before)
    assert torch.equal(network(x), before)
    assert all(tensor.is_meta for tensor in tensors)  # the structure is as it was


def test_shared_weights_stay_shared() -> None:
    network = Tied()
    structure = structure_of(network)
    made = with_tensors(structure, [p.detach() for p in network.parameters()], [])
    assert isinstance(made, Tied)
    assert made.second.weight is made.first.weight


def test_too_few_tensors_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        with_tensors(structure_of(nn.Linear(2, 2)), [torch.zeros(2, 2)], [])
