"""`bench train`: both loops do the same steps, and the figures are those of the two."""

import pytest
import torch

from neuroimagen.benchmarks import train
from neuroimagen.trainer.stages.base import Stage
from neuroimagen.trainer.stages.registry import build_stage

CPU = torch.device("cpu")


def flat(stage: Stage) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in stage.networks["encoder"].parameters()])


def test_both_loops_train_alike(one_rank: None) -> None:
    stages = [build_stage(train.recipe_of("contrastive"), "contrastive", train.SHAPES) for _ in range(2)]
    steps = (train.engine_step(stages[0], CPU), train.bare_step(stages[1], CPU))
    # The bare loop keeps the peak learning rate: told apart from the engine's warm-up, the networks move alike.
    for step in steps:
        step(0)
    engine, bare = (
        torch.cat([p.detach().flatten() for p in stage.networks["encoder"].parameters()]) for stage in stages
    )
    start = build_stage(train.recipe_of("contrastive"), "contrastive", train.SHAPES).networks["encoder"]
    origin = torch.cat([p.detach().flatten() for p in start.parameters()])
    moved = torch.nn.functional.cosine_similarity(engine - origin, bare - origin, dim=0)
    assert moved > 0.98


def test_figures_are_of_the_blocks(one_rank: None, monkeypatch: pytest.MonkeyPatch) -> None:
    durations = iter([1.0] + [0.002, 0.001, 0.001, 0.002] * 9)
    next(durations)
    monkeypatch.setattr(train, "timed", lambda step, count, device: next(durations))
    monkeypatch.setattr(train, "engine_step", lambda stage, device: lambda number: None)
    monkeypatch.setattr(train, "bare_step", lambda stage, device: lambda number: None)
    figures = train.compare_steps("contrastive", CPU, blocks=4, block_steps=1)
    # Bare first in even blocks, the engine first in odd ones.
    assert figures["bare_ms"] == pytest.approx(2.0)
    assert figures["engine_ms"] == pytest.approx(1.0)
    assert figures["overhead"] == pytest.approx(-0.5)
