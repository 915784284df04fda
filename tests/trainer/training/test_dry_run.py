"""The memory that a dry run announces, by ZeRO stage; test_two_ranks.py counts it at ZeRO 3."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from neuroimagen.launch import cli
from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.trainer.stages.base import StageConfig
from neuroimagen.trainer.training import dry_run as module
from neuroimagen.trainer.training.dry_run import RankMemory, describe, dry_run, rank_memory


def stage(**settings: Any) -> Any:
    """1,000 weights, of which 800 are trained, on the meta device."""
    network = nn.ModuleList([nn.Linear(20, 10, bias=False), nn.Linear(40, 20, bias=False)]).to("meta")
    network[0].requires_grad_(False)
    return SimpleNamespace(config=StageConfig(**settings), networks={"network": network})


COMMON = {"gathered": 0, "evaluation": 0, "reduction": 0, "average": 0}
EXPECTED = {
    0: {**COMMON, "weights": 4000, "gradients": 3200, "optimizer": 2 * 3200},
    1: {**COMMON, "weights": 4000, "gradients": 3200, "optimizer": 3 * 800},
    2: {**COMMON, "weights": 4000, "gradients": 800, "optimizer": 3 * 800, "reduction": 3200},
    3: {
        **{"weights": 1000, "gradients": 800, "optimizer": 3 * 800, "reduction": 3200, "average": 0},
        **{"gathered": 4000, "evaluation": 4000},
    },
}
"""By ZeRO stage, over four ranks."""


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_shards_are_counted_once_over_the_ranks(zero_stage: int) -> None:
    expected = EXPECTED[zero_stage]
    assert rank_memory(stage(zero_stage=zero_stage), num_ranks=4) == RankMemory(**expected)
    averaged = rank_memory(stage(zero_stage=zero_stage, ema_decay=0.9), num_ranks=4)
    assert averaged == RankMemory(**{**expected, "average": expected["weights"]})


def test_a_large_network_is_never_gathered_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ZERO_3_ELEMENTS", 150)
    assert rank_memory(stage(zero_stage=3), num_ranks=4).gathered == 4 * 300


def test_it_says_what_each_zero_stage_takes() -> None:
    """Eight ranks with the U-Net of Stable Diffusion 1.5, all of it trained."""
    recipe = Path(cli.__file__).parent / "recipes" / "eegcvpr40-sd15.yaml"
    words = ("diffusion.trained=all", "diffusion.batch_size=8", "diffusion.ema_decay=0.999")
    results = []
    for zero_stage in range(4):
        changed = load_recipe(recipe, (*words, f"diffusion.zero_stage={zero_stage}"))
        results.append(dry_run(changed, "diffusion", num_ranks=8))
    totals = [result.total_bytes for result in results]
    assert totals == sorted(totals, reverse=True)
    assert totals[3] < totals[0] / 2
    said = describe(results[3])
    assert "GiB per rank at ZeRO 3: weights" in said
    assert "gathered weights 0.373" in said  # 100 million
    assert "during validation 3." in said
    assert "validation" not in describe(results[2])
    memory = results[3].memory
    # Weights, gradients, optimiser's copy, two moments, average: 24 bytes per weight over eight ranks.
    assert memory.between_steps - memory.reduction == pytest.approx(24 / 8 * memory.evaluation / 4, rel=0.01)
