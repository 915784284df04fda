"""A step through the engine equals a plain PyTorch step, bit for bit, and does not wait for the device more often."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import deepspeed.comm
import pytest
import torch
from deepspeed.accelerator import get_accelerator
from small_engine import small_engine, take_steps
from small_study import TRANSFORMER
from torch import nn

from neuroimagen.benchmarks.train_steps import SEED, bare_step
from neuroimagen.data_shards.loading.reader import Batch
from neuroimagen.trainer.batches.stage_data import StageData
from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.trainer.stages.base import Stage
from neuroimagen.trainer.stages.config import StageConfig
from neuroimagen.trainer.stages.registry import STAGES
from neuroimagen.trainer.training.build import build_stage
from neuroimagen.trainer.training.engines import engine as engine_module
from neuroimagen.trainer.training.engines.engine import build_engines, engine_config, set_learning_rates
from neuroimagen.trainer.training.inputs import open_inputs
from neuroimagen.trainer.training.loop import train_step
from neuroimagen.trainer.training.process_group import ProcessGroup

CPU = torch.device("cpu")
STEPS = 5
Opened = tuple[Stage, list[Batch]]


@pytest.fixture
def opened(one_rank: None, recipe_path: Path) -> Callable[..., Opened]:
    """opened(stage, *settings) → the stage with new networks, and its first batches."""

    def open_stage(name: str, *settings: str) -> Opened:
        overrides = [f"{name}.{setting}" for setting in settings]
        recipe = load_recipe(recipe_path, (*(TRANSFORMER if name == "masked" else ()), *overrides))
        dataset, shapes, latents = open_inputs(recipe, name)
        stage = build_stage(recipe, name, shapes)
        data = StageData(dataset, needs=stage.needs, latents=latents, subjects=None, device=CPU)
        batches = data.feed(stage.plan(data, 0)).epochs(0)
        return stage, [next(batches) for _ in range(STEPS)]

    return open_stage


def train(stage: Stage, batches: list[Batch]) -> dict[str, nn.Module]:
    """Train on these batches; returns the networks with whole weights."""
    engines = build_engines(stage, world_size=1, device=CPU)
    for step, batch in enumerate(batches):
        set_learning_rates(stage, engines, 10**6)  # the end of the schedule: the plain loop's rate is constant
        train_step(stage, engines, batch, SEED, step, ProcessGroup())
    return {name: engine.whole_network() for name, engine in engines.items()}


@pytest.mark.parametrize("name", STAGES.names())
def test_one_rank_s_steps_are_plain_pytorch_s(name: str, opened: Callable[..., Opened]) -> None:
    """With gradients far above the clip, and a constant learning rate."""
    settings = ("gradient_clip=0.01", "warmup_steps=0", "final_learning_rate_fraction=1.0")
    ours, batches = opened(name, *settings)
    plain, _ = opened(name, *settings)
    before = {key: network.state_dict() for key, network in plain.networks.items()}
    before = {key: {name: value.clone() for name, value in state.items()} for key, state in before.items()}
    train(ours, batches)
    step = bare_step(plain, CPU)
    for number, batch in enumerate(batches):
        step(number, batch)
    for key, network in plain.networks.items():
        expected, found = network.state_dict(), ours.networks[key].state_dict()
        assert any(not torch.equal(value, before[key][name]) for name, value in expected.items())
        assert all(torch.equal(found[name], value) for name, value in expected.items()), key


@pytest.mark.parametrize("zero_stage", [0, 1, 2])
def test_a_step_waits_for_the_device_nowhere_else(
    zero_stage: int, opened: Callable[..., Opened], monkeypatch: pytest.MonkeyPatch
) -> None:
    """DeepSpeed's timers would wait twice per step."""
    waits: list[None] = []
    monkeypatch.setattr(get_accelerator(), "synchronize", lambda *_: waits.append(None), raising=False)
    stage, batches = opened("contrastive", f"zero_stage={zero_stage}")
    engines = build_engines(stage, world_size=1, device=CPU)
    waits.clear()
    for step, batch in enumerate(batches):
        train_step(stage, engines, batch, SEED, step, ProcessGroup())
    assert not waits


def test_one_rank_reduces_nothing(opened: Callable[..., Opened], monkeypatch: pytest.MonkeyPatch) -> None:
    stage, batches = opened("contrastive")
    engines = build_engines(stage, world_size=1, device=CPU)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("gradients were reduced over one rank")

    monkeypatch.setattr(deepspeed.comm, "all_reduce", refuse)
    for step, batch in enumerate(batches):
        train_step(stage, engines, batch, SEED, step, ProcessGroup())


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_no_clip_is_none(zero_stage: int, opened: Callable[..., Opened]) -> None:
    """`gradient_clip: null` does not clip, where DeepSpeed's default is to clip at 1."""

    def weights(clip: str) -> torch.Tensor:
        stage, batches = opened("contrastive", f"gradient_clip={clip}", f"zero_stage={zero_stage}")
        (phase,) = stage.phases

        def larger(*args: Any) -> Any:
            loss, figures = phase.loss(*args)
            return 100 * loss, figures

        stage.phases = (replace(phase, loss=larger),)
        (network,) = train(stage, batches).values()
        return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])

    unclipped = weights("null")
    assert torch.equal(unclipped, weights("1e9"))
    assert not torch.equal(unclipped, weights("1.0"))


def test_zero_3_lets_go_of_weights_that_are_not_needed_soon(one_rank: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """With DeepSpeed's default of a billion every network is whole at the end of a forward pass. The bits are equal."""
    results = []
    for elements in (engine_module.ZERO_3_ELEMENTS, 1000):
        monkeypatch.setattr(engine_module, "ZERO_3_ELEMENTS", elements)
        torch.manual_seed(0)
        engine = small_engine(3)
        take_steps(engine, 2)  # the first records in which order weights are used
        loss = engine.deepspeed(torch.ones(4, 150)).square().mean()
        whole = sum(parameter.numel() for parameter in engine.module.parameters())
        engine.backward(loss)
        engine.step()
        results.append((whole, [weight.clone() for weight in engine.whole_network().parameters()]))
    (kept, weights), (few, same_weights) = results
    assert kept == sum(weight.numel() for weight in weights)
    assert few < 0.5 * kept  # the last layers, which the backward pass needs first
    assert all(torch.equal(*pair) for pair in zip(weights, same_weights, strict=True))


def test_the_reduction_buffer_is_no_larger_than_the_network() -> None:
    sizes = {
        (zero_stage, num_trained): engine_config(
            StageConfig(zero_stage=zero_stage), global_batch_size=4, world_size=2, num_trained=num_trained
        )["zero_optimization"]["reduce_bucket_size"]
        for zero_stage in (2, 3)
        for num_trained in (0, 1234, 10**9)
    }
    assert sizes == {(2, 0): 1, (2, 1234): 1234, (2, 10**9): 5e8, (3, 0): 1, (3, 1234): 1234, (3, 10**9): 5e7}
