"""The moving average of weights, against its definition."""

import torch
from torch import nn

from neuroimagen.trainer.training.ema import EMA


def test_the_average_is_the_weighted_sum_of_the_steps() -> None:
    network = nn.Linear(3, 2)
    average = EMA(network, 0.9)
    expected = network.weight.detach().double().clone()
    for step in range(1, 40):
        with torch.no_grad():
            network.weight += torch.randn(2, 3, generator=torch.Generator().manual_seed(step))
        average.update(network, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * network.weight.detach().double()
    torch.testing.assert_close(average.network.weight.double(), expected, rtol=1e-5, atol=1e-5)


def test_its_state_is_a_copy_that_later_steps_leave_alone() -> None:
    """A checkpoint is written while training goes on."""
    network = nn.BatchNorm1d(4)
    average = EMA(network, 0.5)
    state = average.state()
    before = {name: tensor.clone() for name, tensor in state.items()}
    with torch.no_grad():
        network.weight += 1.0
        network.running_mean += 1.0  # type: ignore[operator]
    average.update(network, 1)
    assert all(torch.equal(state[name], before[name]) for name in before)
    other = EMA(nn.BatchNorm1d(4), 0.5)
    other.load(average.state())
    assert torch.equal(other.network.weight, average.network.weight)
