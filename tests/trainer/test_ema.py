"""The moving average, and what a checkpoint takes of it."""

import torch

from neuroimagen.trainer.ema import EMA


def test_the_state_of_a_step_does_not_move_on_with_training() -> None:
    """A checkpoint is written by a thread while the next steps update the average."""
    network = torch.nn.Linear(3, 2)
    average = EMA(network, 0.5)
    state = average.state()
    before = {name: tensor.clone() for name, tensor in state.items()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    average.update(network, 100)
    assert all(torch.equal(state[name], before[name]) for name in before)
    assert not torch.equal(average.state()["weight"], before["weight"])
    average.load(before)
    assert torch.equal(average.state()["weight"], before["weight"])
