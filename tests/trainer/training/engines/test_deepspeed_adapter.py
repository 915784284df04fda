"""What the adapter reads of DeepSpeed is there, is read nowhere else, and gives the parts of a network to its ranks."""

import importlib
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from small_engine import small_engine
from torch import nn

from neuroimagen.trainer.training.engines import deepspeed_adapter
from neuroimagen.trainer.training.engines.engine import Engine

ATTRIBUTES = {
    0: ("engine.zero_optimization_stage", "engine.torch_autocast_z0_gradscaler", "engine.enable_backward_allreduce"),
    1: (
        "engine.optimizer.optimizer",
        "engine.optimizer.torch_autocast_gradscaler",
        "engine.optimizer.single_partition_of_fp32_groups",
        "parameter._hp_mapping.param_group_index",
        "parameter._hp_mapping.lp_fragment_address.start",
        "parameter._hp_mapping.hp_fragment_address.start",
        "parameter._hp_mapping.hp_fragment",
    ),
    3: (
        "engine.optimizer.optimizer",
        "engine.optimizer.torch_autocast_gradscaler",
        "engine.optimizer.fp32_partitioned_groups_flat",
        "engine.optimizer.grad_position",
        "engine.optimizer.get_param_id",
        "parameter.ds_numel",
        "parameter.ds_shape",
        "parameter.ds_tensor",
    ),
}
"""ZeRO stage → what is read there."""
MODULE_ATTRIBUTES = (("deepspeed.comm.torch", "build_shm_op"), ("deepspeed.comm.comm", "cdb"))
ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="module")
def engines(one_rank: None) -> dict[int, Engine]:
    """ZeRO stage → an engine on one rank."""
    return {zero_stage: small_engine(zero_stage) for zero_stage in (0, 1, 2, 3)}


@pytest.mark.parametrize(("zero_stage", "path"), [(stage, path) for stage in ATTRIBUTES for path in ATTRIBUTES[stage]])
def test_deepspeed_still_has(zero_stage: int, path: str, engines: dict[int, Engine]) -> None:
    """One test an attribute: where a version of DeepSpeed drops one, the failing test's name says which."""
    engine = engines[zero_stage]
    root, *names = path.split(".")
    thing: Any = engine.deepspeed if root == "engine" else next(iter(engine.trained().values()))
    for name in names:
        assert hasattr(thing, name), f"DeepSpeed {version('deepspeed')} has no {path} at ZeRO {zero_stage}"
        thing = getattr(thing, name)


@pytest.mark.parametrize(("module", "name"), MODULE_ATTRIBUTES)
def test_deepspeed_s_modules_still_have(module: str, name: str) -> None:
    assert hasattr(importlib.import_module(module), name), f"DeepSpeed {version('deepspeed')} has no {module}.{name}"


def test_nothing_else_reads_them() -> None:
    names = {path.rpartition(".")[2] for paths in ATTRIBUTES.values() for path in paths}
    names |= {name for _, name in MODULE_ATTRIBUTES} | {"_hp_mapping"}
    names -= {"optimizer", "start"}  # words that mean other things elsewhere
    adapter = ROOT / "trainer" / "training" / "engines" / "deepspeed_adapter.py"
    for name in names:
        assert re.search(rf"\b{name}\b", adapter.read_text(encoding="utf-8")), f"{name} is read no more"
    reads = re.compile(rf"\.({'|'.join(names)})\b|deepspeed\.utils import groups")
    folders = ("trainer", "launch", "tune", "benchmarks", "tests")
    sources = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert len(sources) > 200
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in sources
        if path not in (adapter, Path(__file__))
        for match in reads.finditer(path.read_text(encoding="utf-8"))
    ]
    assert not found


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_one_rank_s_pieces_are_the_network(zero_stage: int, engines: dict[int, Engine]) -> None:
    engine = engines[zero_stage]
    assert deepspeed_adapter.zero_stage(engine.deepspeed) == zero_stage
    assert deepspeed_adapter.gradient_scaler(engine.deepspeed) is None
    network = engine.whole_network()
    whole = dict(network.named_parameters())
    assert [deepspeed_adapter.num_elements(p) for p in engine.trained().values()] == [p.numel() for p in whole.values()]
    pieces = deepspeed_adapter.held_pieces(engine.deepspeed, engine.trained())
    assert {piece.name for piece in pieces} == whole.keys()
    for piece in pieces:
        assert piece.start == 0
        assert torch.equal(piece.weight, whole[piece.name].flatten())
        assert torch.equal(piece.flat.view(-1)[piece.offset : piece.offset + len(piece.weight)], piece.weight)
    for held, parameter in zip(engine.gathered(engine.held_weights()), whole.values(), strict=True):
        assert torch.equal(held, parameter)


@pytest.mark.parametrize("num_ranks", [1, 3, 5])
def test_parts_that_ranks_hold_make_the_whole(num_ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight of 2 × 2 over three or five ranks: with padding, and with ranks that hold padding alone."""
    whole = torch.arange(4.0).view(2, 2)
    length = -(-whole.numel() // num_ranks)
    shards = []
    for rank in range(num_ranks):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        parameter: Any = nn.Parameter(torch.empty(0))
        parameter.ds_tensor, parameter.ds_numel, parameter.ds_shape = torch.full((length,), -1.0), 4, whole.shape
        shard = deepspeed_adapter.held_weight(parameter)
        deepspeed_adapter.copy_held(parameter, whole, shard)
        shards.append(shard)
    assert torch.equal(torch.cat(shards)[:4], whole.flatten())

    def all_gather(parts: list[torch.Tensor], held: torch.Tensor) -> None:
        assert held is shards[-1]
        for part, shard in zip(parts, shards, strict=True):
            part.copy_(shard)

    monkeypatch.setattr(dist, "get_world_size", lambda: num_ranks)
    monkeypatch.setattr(dist, "all_gather", all_gather)
    assert torch.equal(deepspeed_adapter.gather(parameter, shards[-1]), whole)
