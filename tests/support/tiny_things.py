"""Tiny random networks in place of those of the `things` preset, under the same names and with the same layers."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import nn

from neuroimagen.trainer.evaluation.scoring.scoring import Scoring
from neuroimagen.trainer.evaluation.scoring.things.config import NETWORKS
from neuroimagen.trainer.evaluation.scoring.things.networks import FeatureNetwork
from neuroimagen.trainer.evaluation.scoring.things.similarities import ThingsNetworks

LAYERS = {"alexnet": ("alexnet2", "alexnet5")} | {name: (name,) for name in NETWORKS if name != "alexnet"}
SIZE_PX = 24


class TinyNetwork(nn.Module):
    """A random convolution a layer, each of the pixels."""

    def __init__(self, layers: Sequence[str]) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({layer: nn.Conv2d(3, 5, 5, stride=3) for layer in layers})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {layer: convolution(x).relu().flatten(1) for layer, convolution in self.layers.items()}


def tiny_network(name: str, *, batch_size: int = 5) -> FeatureNetwork:
    """The stand-in of a network: always the same weights."""
    torch.manual_seed(NETWORKS.index(name))
    return FeatureNetwork(
        TinyNetwork(LAYERS[name]),
        name=name,
        size_px=SIZE_PX,
        normalisation=((0.4, 0.5, 0.6), (0.2, 0.3, 0.25)),
        device="cpu",
        batch_size=batch_size,
    )


def tiny_networks(names: Sequence[str] = NETWORKS) -> ThingsNetworks:
    return ThingsNetworks({name: f"a tiny {name}" for name in names}, tiny_network)


def with_things(scoring: Scoring, names: Sequence[str] = NETWORKS) -> Scoring:
    """The same evaluation with the preset on."""
    return dataclasses.replace(scoring, networks=dataclasses.replace(scoring.networks, things=tiny_networks(names)))
