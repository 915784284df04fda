"""An engine's state as named pieces of tensors: written by each rank for its own part, read by any number of ranks.

DeepSpeed's own checkpoints are pickles, tied to the number of ranks and to the ZeRO stage. Ours hold, for each trained
parameter, flat pieces (start, length) of the float32 weight and of Adam's two moments, whichever rank has them; so a
run goes on with another number of ranks, or another ZeRO stage, from the same files, bit for bit where nothing
changed.

    pieces-<rank>.safetensors     "<kind>:<start>:<parameter>" → float32 [length]
    rest.safetensors              buffers and frozen weights, whole
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from neuroimagen.data_shards.common.errors import UserError

MOMENTS = ("exp_avg", "exp_avg_sq")
WEIGHT = "weight"
REST_FILE = "rest.safetensors"


@dataclass(frozen=True)
class _Piece:
    """What this rank holds of one parameter: flat float32 views into the optimiser's own memory."""

    name: str
    start: int
    weight: Tensor
    flat: Tensor
    """The optimiser's parameter that `weight` is a part of; its state has the moments."""
    offset: int
    """Where in `flat`."""

    def moment(self, engine: Any, kind: str) -> Tensor:
        state = _inner(engine).state[self.flat][kind]
        return state.view(-1).narrow(0, self.offset, self.weight.numel())


def zero_stage(engine: Any) -> int:
    return int(engine.zero_optimization_stage())


def _inner(engine: Any) -> torch.optim.Optimizer:
    """torch's optimiser, inside whatever DeepSpeed wraps around it."""
    optimizer: torch.optim.Optimizer = engine.optimizer if zero_stage(engine) == 0 else engine.optimizer.optimizer
    return optimizer


def _trained(engine: Any) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters that the optimiser has, by name; `requires_grad` may be off for the moment (trainer/engine.Frozen)."""
    given = {id(parameter) for parameter in engine.trained_parameters}
    return ((name, p) for name, p in engine.module.named_parameters() if id(p) in given)


def _pieces(engine: Any) -> list[_Piece]:
    stage = zero_stage(engine)
    pieces = []
    for name, parameter in _trained(engine):
        if stage == 0:
            flat = parameter.detach().view(-1)
            pieces.append(_Piece(name, 0, flat, parameter, 0))
        elif stage < 3:
            mapping = parameter._hp_mapping  # type: ignore[attr-defined]
            if mapping is not None:  # this rank has some of it
                address = mapping.hp_fragment_address
                group = engine.optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
                pieces.append(
                    _Piece(name, mapping.lp_fragment_address.start, mapping.hp_fragment, group, address.start)
                )
        else:
            optimizer = engine.optimizer
            group_index, offset, padded = optimizer.grad_position[optimizer.get_param_id(parameter)]
            start = padded * optimizer._get_param_partition_rank(parameter)
            length = min(padded, parameter.ds_numel - start)  # type: ignore[attr-defined]
            if length > 0:  # the last ranks of a small parameter hold padding only
                flat = optimizer.fp32_partitioned_groups_flat[group_index]
                pieces.append(_Piece(name, start, flat.detach().narrow(0, offset, length), flat, offset))
    return pieces


def optimizer_step(engine: Any) -> int:
    """Steps that the optimiser has taken: Adam's bias correction depends on it."""
    states = _inner(engine).state.values()
    return int(next((state["step"] for state in states if "step" in state), 0))


def scaler_of(engine: Any) -> torch.amp.GradScaler | None:
    """The loss scaler of an engine that computes in fp16."""
    if zero_stage(engine) == 0:
        scaler: torch.amp.GradScaler | None = engine.torch_autocast_z0_gradscaler
    else:
        scaler = getattr(engine.optimizer, "torch_autocast_gradscaler", None)
    return scaler


def snapshot(engine: Any, *, rank: int) -> dict[str, dict[str, Tensor]]:
    """File name → tensors (copies, on the CPU) that this rank writes. A collective at ZeRO 3."""
    stage = zero_stage(engine)
    files: dict[str, dict[str, Tensor]] = {}
    if stage > 0 or rank == 0:
        moments = MOMENTS if optimizer_step(engine) else ()
        tensors = {}
        for piece in _pieces(engine):
            tensors[f"{WEIGHT}:{piece.start}:{piece.name}"] = _copy(piece.weight)
            for kind in moments:
                tensors[f"{kind}:{piece.start}:{piece.name}"] = _copy(piece.moment(engine, kind))
        files[f"pieces-{rank:05d}.safetensors"] = tensors
    trained = {name for name, _ in _trained(engine)}
    rest = {name: buffer for name, buffer in engine.module.state_dict().items() if name not in trained}
    if stage == 3:
        rest |= {name: p for name, p in gathered(engine).items() if name not in trained}
    if rank == 0:
        files[REST_FILE] = {name: _copy(tensor) for name, tensor in rest.items()}
    return files


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def gathered(engine: Any) -> dict[str, Tensor]:
    """Every parameter of a ZeRO-3 engine, whole, on this rank. A collective."""
    import deepspeed

    whole = {}
    for name, parameter in engine.module.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            whole[name] = parameter.detach().clone()
    return whole


def restore(engine: Any, folder: Path, *, step: int) -> None:
    """Bring an engine to the state in `folder`. Raises UserError when the files are not those of its network."""
    import deepspeed

    stage = zero_stage(engine)
    module: nn.Module = engine.module
    rest = load_file(folder / REST_FILE)
    trained = dict(_trained(engine))
    parameters = dict(module.named_parameters())
    buffers = {name: tensor for name, tensor in module.state_dict().items() if name not in parameters}
    frozen = parameters.keys() - trained.keys()
    if rest.keys() != buffers.keys() | frozen:
        raise UserError(f"{folder} is of another network: {_first_difference(rest.keys(), buffers.keys() | frozen)}.")
    with torch.no_grad():
        for name, buffer in buffers.items():
            buffer.copy_(rest[name])
        whole = _Files(folder)
        if whole.names(WEIGHT) != trained.keys():
            raise UserError(
                f"{folder} is of another network: {_first_difference(whole.names(WEIGHT), trained.keys())}."
            )
        for name, parameter in module.named_parameters():
            value = whole.read(WEIGHT, name) if name in trained else rest[name]
            if stage == 3:
                with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                    parameter.copy_(value.view_as(parameter))
            else:
                parameter.copy_(value.view_as(parameter))
        if step:
            _make_moments(engine, step)
        for piece in _pieces(engine):
            cut = slice(piece.start, piece.start + piece.weight.numel())
            piece.weight.copy_(whole.read(WEIGHT, piece.name)[cut])
            if step:
                for kind in MOMENTS:
                    piece.moment(engine, kind).copy_(whole.read(kind, piece.name)[cut])


def _make_moments(engine: Any, step: int) -> None:
    """AdamW's state as its first step would make it: DeepSpeed's flat parameters have none before that."""
    optimizer = _inner(engine)
    flats = {id(piece.flat): piece.flat for piece in _pieces(engine)}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            flats.setdefault(id(parameter), parameter)
    for flat in flats.values():
        optimizer.state[flat] = {
            "step": torch.tensor(float(step)),
            "exp_avg": torch.zeros_like(flat),
            "exp_avg_sq": torch.zeros_like(flat),
        }


class _Files:
    """The pieces of all ranks that wrote a checkpoint, joined on demand."""

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
            parts = []
            for _, path, key in sorted(self._where[kind, name]):
                with safe_open(path, framework="pt") as file:
                    parts.append(file.get_tensor(key))
            self._last = ((kind, name), torch.cat(parts))
        return self._last[1]


def _first_difference(found: Any, expected: Any) -> str:
    extra, missing = sorted(set(found) - set(expected)), sorted(set(expected) - set(found))
    return f"it has {extra[0]}, which this one lacks" if extra else f"{missing[0]} is missing"
