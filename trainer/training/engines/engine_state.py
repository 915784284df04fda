"""An engine's state as named pieces of tensors: each rank writes those that it holds, any number of ranks reads them.

DeepSpeed's own checkpoints are pickles, tied to the number of ranks and to the ZeRO stage. These files hold, for each
trained parameter, flat pieces (start, length) of the float32 weight and of Adam's two moments. A run can therefore go
on from them with another number of ranks or another ZeRO stage, and bit for bit if neither changes.

    pieces-<rank>.safetensors     "<kind>:<start>:<parameter>" → float32 [length]
    rest.safetensors              buffers and frozen weights, whole
"""

from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.networks.pretrained import added_entries
from neuroimagen.trainer.training.engines import deepspeed_adapter
from neuroimagen.trainer.training.engines.ema import EMA
from neuroimagen.trainer.training.engines.engine import Engine

MOMENTS = ("exp_avg", "exp_avg_sq")
WEIGHT = "weight"
REST_FILE = "rest.safetensors"


def optimizer_step(engine: Engine) -> int:
    """Steps that the optimiser has taken: Adam's bias correction depends on it."""
    states = deepspeed_adapter.torch_optimizer(engine.deepspeed).state.values()
    return int(next((state["step"] for state in states if "step" in state), 0))


def scaler_of(engine: Engine) -> torch.amp.GradScaler | None:
    """The loss scaler of an engine that computes in fp16; None otherwise."""
    return deepspeed_adapter.gradient_scaler(engine.deepspeed)


def snapshot(engine: Engine, *, rank: int) -> dict[str, dict[str, Tensor]]:
    """File name → tensors (copies, on the CPU) that this rank writes. A collective at ZeRO 3."""
    files: dict[str, dict[str, Tensor]] = {}
    trained = engine.trained()
    if deepspeed_adapter.zero_stage(engine.deepspeed) > 0 or rank == 0:
        moments = MOMENTS if optimizer_step(engine) else ()
        tensors = {}
        for piece in deepspeed_adapter.held_pieces(engine.deepspeed, trained):
            tensors[f"{WEIGHT}:{piece.start}:{piece.name}"] = _copy(piece.weight)
            for kind in moments:
                tensors[f"{kind}:{piece.start}:{piece.name}"] = _copy(piece.moment(engine.deepspeed, kind))
        files[f"pieces-{rank:05d}.safetensors"] = tensors
    parameters = dict(engine.module.named_parameters())
    rest = {name: buffer for name, buffer in engine.module.state_dict().items() if name not in parameters}
    if rank == 0:
        files[REST_FILE] = {name: _copy(buffer) for name, buffer in rest.items()}
    for name, parameter in parameters.items():
        if name not in trained:
            whole = deepspeed_adapter.gather(parameter, deepspeed_adapter.held_weight(parameter))
            if rank == 0:
                files[REST_FILE][name] = _copy(whole)
    return files


def snapshot_average(engine: Engine, average: EMA, *, rank: int) -> dict[str, Tensor]:
    """The averaged network's tensors by name (copies, on the CPU) on rank 0, nothing on the others.

    A collective at ZeRO 3, where weights are gathered one after the other: no device holds all of them.
    """
    names: dict[int, list[str]] = {}
    for name, tensor in engine.structure.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)  # shared weights have two
    pairs = chain(
        zip(engine.structure.parameters(), engine.gathered(average.weights), strict=True),
        zip(engine.structure.buffers(), engine.module.buffers(), strict=True),
    )
    return {
        name: _copy(value)
        for tensor, value in pairs  # to their end on every rank
        for name in (names.get(id(tensor), []) if rank == 0 else [])
    }


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def restore(engine: Engine, folder: Path, *, step: int) -> None:
    """Bring an engine to the state in `folder`. Raises UserError when the files are not those of its network."""
    import deepspeed

    module = engine.module
    rest = {**added_entries(module), **load_file(folder / REST_FILE)}
    trained = engine.trained()
    parameters = dict(module.named_parameters())
    buffers = {name: tensor for name, tensor in module.state_dict().items() if name not in parameters}
    frozen = parameters.keys() - trained.keys()
    if rest.keys() != buffers.keys() | frozen:
        raise UserError(f"{folder} is of another network: {_first_difference(rest.keys(), buffers.keys() | frozen)}.")
    with torch.no_grad():
        for name, buffer in buffers.items():
            _require_size(folder, name, rest[name], buffer.numel())
            buffer.copy_(rest[name].view_as(buffer))
        whole = _Files(folder)
        if whole.names(WEIGHT) != trained.keys():
            raise UserError(
                f"{folder} is of another network: {_first_difference(whole.names(WEIGHT), trained.keys())}."
            )
        sizes: dict[str, int] = {}
        for name, parameter in module.named_parameters():
            value = whole.read(WEIGHT, name) if name in trained else rest[name]
            sizes[name] = getattr(parameter, "ds_numel", parameter.numel())  # at ZeRO 3 a rank holds a part
            _require_size(folder, name, value, sizes[name])
            if deepspeed_adapter.zero_stage(engine.deepspeed) == 3:
                with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                    parameter.copy_(value.view_as(parameter))
            else:
                parameter.copy_(value.view_as(parameter))
        pieces = deepspeed_adapter.held_pieces(engine.deepspeed, trained)
        if step:
            _make_moments(engine, pieces, step)
        for piece in pieces:
            cut = slice(piece.start, piece.start + piece.weight.numel())
            piece.weight.copy_(whole.read(WEIGHT, piece.name)[cut])
            if step:
                for kind in MOMENTS:
                    moment = whole.read(kind, piece.name)
                    _require_size(folder, f"{kind} of {piece.name}", moment, sizes[piece.name])
                    piece.moment(engine.deepspeed, kind).copy_(moment[cut])


@torch.no_grad()
def restore_average(engine: Engine, average: EMA, path: Path) -> None:
    """Bring an average to that of the file at `path`. Raises UserError when it is of another network."""
    saved = {**added_entries(engine.module), **load_file(path)}
    expected = engine.structure.state_dict()
    if saved.keys() != expected.keys():
        raise UserError(f"{path} is of another network: {_first_difference(saved.keys(), expected.keys())}.")
    for name, tensor in expected.items():
        _require_size(path, name, saved[name], tensor.numel())
    for (name, parameter), held in zip(engine.module.named_parameters(), average.weights, strict=True):
        deepspeed_adapter.copy_held(parameter, saved[name], held)


def _make_moments(engine: Engine, pieces: list[deepspeed_adapter.Piece], step: int) -> None:
    """Make AdamW's state as its first step would, with zero moments: before that step there is none to copy into."""
    optimizer = deepspeed_adapter.torch_optimizer(engine.deepspeed)
    flats = {id(piece.flat): piece.flat for piece in pieces}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            flats.setdefault(id(parameter), parameter)
    for flat in flats.values():
        optimizer.state[flat] = {
            "step": torch.tensor(float(step)),
            "exp_avg": torch.zeros_like(flat),
            "exp_avg_sq": torch.zeros_like(flat),
        }


def read_network(folder: Path, network: nn.Module) -> dict[str, Tensor]:
    """The state dictionary of the network in `folder`, whatever ranks and ZeRO stage wrote it; without DeepSpeed.

    `network`: one of its kind and sizes. Raises UserError when the files are of another network.
    """
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    rest, pieces = {**added_entries(network), **load_file(folder / REST_FILE)}, _Files(folder)
    names = rest.keys() | pieces.names(WEIGHT)
    if names != shapes.keys():
        raise UserError(f"{folder} is of another network: {_first_difference(names, shapes.keys())}.")
    return {name: rest[name] if name in rest else pieces.read(WEIGHT, name).view(shapes[name]) for name in names}


class _Files:
    """The pieces of all ranks that wrote a checkpoint, concatenated when they are read."""

    def __init__(self, folder: Path) -> None:
        self._where: dict[tuple[str, str], list[tuple[int, Path, str]]] = {}
        for path in sorted(folder.glob("pieces-*.safetensors")):
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 - no mapping
                    kind, start, name = key.split(":", 2)
                    self._where.setdefault((kind, name), []).append((int(start), path, key))
        self._last: tuple[tuple[str, str], Tensor] | None = None

    def names(self, kind: str) -> set[str]:
        return {name for found, name in self._where if found == kind}

    def read(self, kind: str, name: str) -> Tensor:
        """The whole parameter's values, flat."""
        if self._last is None or self._last[0] != (kind, name):
            pieces = []
            for _, path, key in sorted(self._where[kind, name]):
                with safe_open(path, framework="pt") as file:
                    pieces.append(file.get_tensor(key))
            self._last = ((kind, name), torch.cat(pieces))
        return self._last[1]


def _require_size(path: Path, name: str, value: Tensor, size: int) -> None:
    """Raise UserError for a tensor of another size: PyTorch would copy a single number to all places."""
    if value.numel() != size:
        raise UserError(f"{path} is of another network: {name} has {value.numel()} numbers, not {size}.")


def _first_difference(found: Any, expected: Any) -> str:
    extra, missing = sorted(set(found) - set(expected)), sorted(set(expected) - set(found))
    return f"it has {extra[0]}, which this one lacks" if extra else f"{missing[0]} is missing"
