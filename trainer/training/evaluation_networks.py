"""Networks to validate, draw samples and export with: whole on this rank, for as long as they are needed."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from torch import nn

from neuroimagen.trainer.training.engines.ema import EMA
from neuroimagen.trainer.training.engines.engine import Engines


@contextmanager
def evaluation_networks(engines: Engines, averages: Mapping[str, EMA]) -> Iterator[dict[str, nn.Module]]:
    """Network name → the network with its averaged weights where there are any, else with the newest.

    A collective at ZeRO 3, where every rank's device holds the whole networks inside the context only. The dictionary
    is empty afterwards, so that nothing keeps them.
    """
    networks = {
        name: engine.network(averages[name].weights) if name in averages else engine.whole_network()
        for name, engine in engines.items()
    }
    try:
        yield networks
    finally:
        networks.clear()


@contextmanager
def evaluation_mode(networks: Mapping[str, nn.Module]) -> Iterator[None]:
    """Networks in evaluation mode, and not compiled: for the few batches of other sizes it would not pay."""
    was_training = {key: network.training for key, network in networks.items()}
    for network in networks.values():
        network.eval()
    compiled = any(network._compiled_call_impl is not None for network in networks.values())
    try:
        with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
            yield
    finally:
        for key, network in networks.items():
            network.train(was_training[key])
