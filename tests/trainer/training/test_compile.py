"""`compile: true`: the networks are compiled once, and train, export and resume as without it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_study import TRANSFORMER

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.trainer.training import loop

Train = Callable[..., Path]
STAGES = {
    "contrastive": ("contrastive.steps=6", "encoder.subject_layers=true"),
    "saliency": ("saliency.initialise_from=null", "saliency.zero_stage=2"),
    "masked": (*TRANSFORMER, "masked.steps=6", "masked.activation_checkpointing=true"),
}


def results(stage: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Export and checkpoints: file → tensors by name."""
    return {str(path.relative_to(stage)): load_file(path) for path in stage.rglob("*.safetensors")}


@pytest.fixture
def compiled_graphs() -> Callable[[], int]:
    """The number of graphs that torch.compile has made in this test."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    return lambda: int(counters["stats"]["unique_graphs"])


@pytest.mark.parametrize("backend", ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", STAGES)
def test_a_compiled_stage_learns_the_same(
    name: str,
    backend: str,
    train_here: Train,
    recipe_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    compiled_graphs: Callable[[], int],
) -> None:
    plain = train_here(recipe_path, name, tmp_path / "plain", *STAGES[name])
    assert compiled_graphs() == 0
    after: list[int] = []

    def counting(*args: Any, **kwargs: Any) -> Any:
        figures = real(*args, **kwargs)
        after.append(compiled_graphs())
        return figures

    real = loop.train_step
    monkeypatch.setattr(loop, "train_step", counting)
    wanted = (*STAGES[name], f"{name}.compile=true", f"{name}.compile_backend={backend}")
    stage = train_here(recipe_path, name, tmp_path / "compiled", *wanted)
    assert after[0] > 0
    # The second step may compile again, because the optimiser now has a state; after it nothing is compiled.
    assert after[2:] == [after[1]] * (len(after) - 2)
    expected, found = results(plain), results(stage)
    assert {file: tensors.keys() for file, tensors in found.items()} == {
        file: tensors.keys() for file, tensors in expected.items()
    }
    for file, tensors in expected.items():
        for key, tensor in tensors.items():
            assert torch.allclose(found[file][key].float(), tensor.float(), rtol=1e-3, atol=1e-4), (file, key)


def test_a_compiled_stage_resumes_exactly(
    train_here: Train, recipe_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_at_fourteen(*args: Any, **kwargs: Any) -> Any:
        if args[4] == 14:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    common = ("contrastive.compile=true", "contrastive.compile_backend=eager")
    whole = train_here(recipe_path, "contrastive", tmp_path / "whole", *common)
    real = loop.train_step
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", stop_at_fourteen)
        with pytest.raises(KeyboardInterrupt):
            train_here(recipe_path, "contrastive", tmp_path / "run", *common)
    resumed = train_here(recipe_path, "contrastive", tmp_path / "run", *common, resume=True)
    export = "export/model.safetensors"
    assert (resumed / export).read_bytes() == (whole / export).read_bytes()


def test_zero_3_is_refused(recipe_path: Path) -> None:
    with pytest.raises(UserError, match="compile needs zero_stage 2 or less"):
        load_recipe(recipe_path, ["semantic.compile=true", "semantic.zero_stage=3"])
