"""The networks that validation, samples and exports use: which weights they have, and for how long they are there."""

import gc
import weakref

import pytest
import torch
from small_engine import small_engine
from torch import nn

from neuroimagen.trainer.training.engines.ema import EMA
from neuroimagen.trainer.training.evaluation_networks import evaluation_mode, evaluation_networks


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_they_have_the_newest_weights_or_the_averaged_ones(zero_stage: int, one_rank: None) -> None:
    torch.manual_seed(0)
    engine = small_engine(zero_stage)
    names = list(dict(engine.module.named_parameters()))
    newest = {name: whole.clone() for name, whole in zip(names, engine.gathered(engine.held_weights()), strict=True)}
    average = EMA(engine.held_weights(), 0.5)
    for weight in average.weights:
        weight.add_(1.0)
    for buffer in engine.module.buffers():
        buffer.add_(2)
    with evaluation_networks({"network": engine}, {}) as networks:
        whole = networks["network"]
        assert (whole is engine.module) == (zero_stage < 3)
        assert all(torch.equal(parameter, newest[name]) for name, parameter in whole.named_parameters())
    with evaluation_networks({"network": engine}, {"network": average}) as networks:
        averaged = networks["network"]
        assert all(torch.equal(parameter, newest[name] + 1.0) for name, parameter in averaged.named_parameters())
        for found, buffer in zip(averaged.buffers(), engine.module.buffers(), strict=True):
            assert torch.equal(found, buffer)  # the newest: buffers are not averaged
        there = weakref.ref(averaged)
        del averaged
    assert networks == {}
    gc.collect()
    assert there() is None


def test_evaluation_mode_is_left_as_it_was_entered() -> None:
    networks = {"first": nn.Dropout().train(), "second": nn.Dropout().eval()}
    with evaluation_mode(networks):
        assert not any(network.training for network in networks.values())
    assert (networks["first"].training, networks["second"].training) == (True, False)
