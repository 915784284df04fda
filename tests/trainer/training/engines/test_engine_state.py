"""An engine's state goes through files, from any ZeRO stage to any other, to the bit."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_engine import small_engine, take_steps

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.training.engines import engine_state
from neuroimagen.trainer.training.engines.ema import EMA
from neuroimagen.trainer.training.engines.engine import Engine


def write(engine: Engine, average: EMA, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    files = engine_state.snapshot(engine, rank=0)
    for name, tensors in files.items():
        save_file(tensors, folder / name)
    save_file(engine_state.snapshot_average(engine, average, rank=0), folder / "ema.safetensors")
    return files


def weights(engine: Engine) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in engine.whole_network().state_dict().items()}


@pytest.mark.parametrize("after", [0, 1, 2, 3])
@pytest.mark.parametrize("before", [0, 1, 3])
def test_a_run_goes_on_to_the_bit_at_any_zero_stage(before: int, after: int, one_rank: None, tmp_path: Path) -> None:
    """With a frozen layer, batch statistics, Adam's moments and a moving average."""
    torch.manual_seed(0)
    first = small_engine(before, trained_layers=2, gradient_clip=None)  # whose norm is summed in another order
    average = EMA(first.held_weights(), 0.9)
    take_steps(first, 3)
    average.update(first.held_weights(), 3)
    files = write(first, average, tmp_path / "state")
    assert files.keys() == {"pieces-00000.safetensors", "rest.safetensors"}
    assert {"0.weight", "0.bias", "1.running_mean"} <= files["rest.safetensors"].keys()
    torch.manual_seed(1)
    second = small_engine(after, trained_layers=2, gradient_clip=None)
    restored = EMA(second.held_weights(), 0.9)
    assert engine_state.optimizer_step(first) == 3
    engine_state.restore(second, tmp_path / "state", step=3)
    engine_state.restore_average(second, restored, tmp_path / "state" / "ema.safetensors")
    assert engine_state.optimizer_step(second) == 3
    for engine, averaged in ((first, average), (second, restored)):
        take_steps(engine, 2, seed=5)
        averaged.update(engine.held_weights(), 5)
    expected, found = weights(first), weights(second)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    expected, found = (engine_state.snapshot_average(*pair, rank=0) for pair in ((first, average), (second, restored)))
    assert expected.keys() == weights(first).keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert engine_state.snapshot_average(first, average, rank=1) == {}


def test_another_network_s_files_are_refused_by_name(one_rank: None, tmp_path: Path) -> None:
    engine = small_engine(0)
    average = EMA(engine.held_weights(), 0.9)
    write(engine, average, tmp_path / "state")
    other = small_engine(0, trained_layers=2)
    with pytest.raises(UserError, match=r"is of another network: 0\.bias is missing"):
        engine_state.restore(other, tmp_path / "state", step=0)
    save_file({"x": torch.zeros(1)}, tmp_path / "ema.safetensors")
    with pytest.raises(UserError, match="is of another network: it has x, which this one lacks"):
        engine_state.restore_average(engine, average, tmp_path / "ema.safetensors")


@pytest.mark.parametrize("entry", ["1.running_mean", "weight:0:2.weight", "exp_avg:0:2.weight", "ema"])
def test_a_tensor_of_another_size_is_refused(entry: str, one_rank: None, tmp_path: Path) -> None:
    """PyTorch copies a tensor of one number to all places, without an error."""
    engine = small_engine(0, trained_layers=2)
    take_steps(engine, 2, seed=0)
    average = EMA(engine.held_weights(), 0.9)
    state = tmp_path / "state"
    write(engine, average, state)
    if entry == "ema":
        path = state / "ema.safetensors"
        restore = partial(engine_state.restore_average, engine, average, path)
    else:
        path = state / ("rest.safetensors" if entry[0] == "1" else "pieces-00000.safetensors")
        restore = partial(engine_state.restore, engine, state, step=2)
    tensors = load_file(path)
    changed = "0.weight" if entry == "ema" else entry
    assert tensors[changed].numel() > 1
    restore()
    save_file(tensors | {changed: torch.ones(1)}, path)
    with pytest.raises(UserError, match=r"is of another network: .* has 1 numbers, not \d+"):
        restore()


def test_snapshots_are_copies(one_rank: None) -> None:
    """A checkpoint is written while training goes on."""
    engine = small_engine(2)
    average = EMA(engine.held_weights(), 0.9)
    take_steps(engine, 1)
    files = engine_state.snapshot(engine, rank=0) | {"average": engine_state.snapshot_average(engine, average, rank=0)}
    before = {(file, name): tensor.clone() for file, kept in files.items() for name, tensor in kept.items()}
    take_steps(engine, 1)
    average.update(engine.held_weights(), 2)
    assert all(torch.equal(files[file][name], tensor) for (file, name), tensor in before.items())
