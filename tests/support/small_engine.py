"""A small network in an engine, without a stage, a recipe or data."""

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from neuroimagen.trainer.training.engines.engine import Engine


def small_engine(zero_stage: int, *, trained_layers: int = 3, **settings: Any) -> "Engine":
    """An engine on one rank (the fixture `one_rank`): three layers, of which the first two are sharded at ZeRO 3.

    trained_layers: how many layers take gradients, from the last one back.
    """
    from neuroimagen.trainer.stages.base import StageConfig
    from neuroimagen.trainer.training.engines.engine import build_engines

    network = nn.Sequential(nn.Linear(150, 100), nn.BatchNorm1d(100), nn.Linear(100, 120), nn.Linear(120, 1))
    layers = [network[0], network[2], network[3]]
    for layer in layers[: len(layers) - trained_layers]:
        layer.requires_grad_(False)
    stage: Any = SimpleNamespace(
        config=StageConfig(zero_stage=zero_stage, **settings),  # type: ignore[arg-type]
        networks={"network": network},
        global_batch_size=4,
        learning_rate=lambda name: 1e-3,
    )
    return build_engines(stage, world_size=1, device=torch.device("cpu"))["network"]


def take_steps(engine: "Engine", count: int, *, seed: int = 0) -> None:
    """Optimiser steps on random batches, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        x = torch.randn(4, 150, generator=generator)
        engine.backward(engine.deepspeed(x).square().mean())
        engine.step()
