"""What training needs of DeepSpeed beyond its documented interface, each access once and with its reason.

DeepSpeed gives these attributes no promise, so pyproject.toml allows one minor version, and
tests/trainer/training/engines/test_deepspeed_adapter.py names every attribute that another version lacks. No other
module reads them. `engine` is always what `deepspeed.initialize` returned.
"""

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Piece:
    """What this rank holds of one trained parameter: flat float32 views into the optimiser's own memory."""

    name: str
    start: int
    """First element of the parameter, flattened, that the piece holds."""
    weight: Tensor
    """float32 [length]."""
    flat: Tensor
    """The optimiser's parameter that contains `weight`; its state has the moments."""
    offset: int
    """Position of `weight` in `flat`."""

    def moment(self, engine: Any, kind: str) -> Tensor:
        """Adam's moment `kind` of the piece, float32 [length]; a view."""
        state = torch_optimizer(engine).state[self.flat][kind]
        return state.view(-1).narrow(0, self.offset, self.weight.numel())


def zero_stage(engine: Any) -> int:
    """The engine's ZeRO stage, 0 to 3."""
    return int(engine.zero_optimization_stage())


def torch_optimizer(engine: Any) -> torch.optim.Optimizer:
    """PyTorch's optimiser, which ZeRO wraps in one of its own: its state holds Adam's moments."""
    optimizer: torch.optim.Optimizer = engine.optimizer if zero_stage(engine) == 0 else engine.optimizer.optimizer
    return optimizer


def gradient_scaler(engine: Any) -> torch.amp.GradScaler | None:
    """The loss scaler of an engine that computes in fp16: its scale is part of a checkpoint. None otherwise."""
    if zero_stage(engine) == 0:
        scaler: torch.amp.GradScaler | None = engine.torch_autocast_z0_gradscaler
    else:
        scaler = engine.optimizer.torch_autocast_gradscaler
    return scaler


def leave_gradients_in_place(engine: Any) -> None:
    """Switch off the reduction of gradients, for one rank at ZeRO 0: it would copy each into a buffer and back."""
    engine.enable_backward_allreduce = False


def held_pieces(engine: Any, trained: Mapping[str, nn.Parameter]) -> list[Piece]:
    """What this rank holds of the trained parameters, name → parameter.

    DeepSpeed documents ways to read a parameter's float32 weight and moments, but at ZeRO 1 and 2 none that stays with
    this rank's share, and none that makes the moments before the first step, as resuming must.
    """
    stage = zero_stage(engine)
    pieces = []
    for name, parameter in trained.items():
        if stage == 0:
            flat = parameter.detach().view(-1)
            pieces.append(Piece(name, 0, flat, parameter, 0))
        elif stage < 3:
            mapping = parameter._hp_mapping  # type: ignore[attr-defined]
            if mapping is not None:  # this rank has some of it
                address = mapping.hp_fragment_address
                group = engine.optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
                pieces.append(Piece(name, mapping.lp_fragment_address.start, mapping.hp_fragment, group, address.start))
        else:
            optimizer = engine.optimizer
            group_index, offset, padded = optimizer.grad_position[optimizer.get_param_id(parameter)]
            start = padded * dist.get_rank()
            length = min(padded, parameter.ds_numel - start)  # type: ignore[attr-defined]
            if length > 0:  # the last ranks of a small parameter hold padding only
                flat = optimizer.fp32_partitioned_groups_flat[group_index]
                pieces.append(Piece(name, start, flat.detach().narrow(0, offset, length), flat, offset))
    return pieces


def num_elements(parameter: nn.Parameter) -> int:
    """Elements of a parameter; ZeRO 3 leaves an empty tensor where the weight was."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def held_weight(parameter: nn.Parameter) -> Tensor:
    """What this rank holds of a parameter between steps: all of it, or at ZeRO 3 its shard.

    A shard is flat; every rank's has the same length, so that the last may end with padding.
    """
    shard: Tensor | None = getattr(parameter, "ds_tensor", None)
    return parameter.detach() if shard is None else shard.detach()


def gather(parameter: nn.Parameter, held: Tensor) -> Tensor:
    """The whole of what each rank holds a part of, `held` having the shape of `held_weight`. A collective at ZeRO 3.

    DeepSpeed's own `GatheredParameters` gathers weights alone, not averages of them.
    """
    if not hasattr(parameter, "ds_tensor"):
        return held
    whole = held.new_empty(held.numel() * dist.get_world_size())
    dist.all_gather(list(whole.split(held.numel())), held)
    return whole[: parameter.ds_numel].view(parameter.ds_shape)  # type: ignore[attr-defined]


def copy_held(parameter: nn.Parameter, whole: Tensor, held: Tensor) -> None:
    """The inverse of `gather`: copy this rank's part of `whole` into `held`."""
    if not hasattr(parameter, "ds_tensor"):
        held.copy_(whole)
        return
    start = held.numel() * dist.get_rank()
    part = whole.reshape(-1)[start : start + held.numel()]  # the last ranks' may be shorter, or empty
    held[: part.numel()].copy_(part)


def init_gloo() -> None:
    """`deepspeed.init_distributed` for CPU ranks, over plain gloo.

    DeepSpeed would compile a shared-memory reduction of its own at the first use: it needs a compiler, a minute and a
    path without spaces (its linker flags are not quoted). gloo does the same work without.
    """
    import deepspeed

    # Not `import … as`: the attribute `deepspeed.comm.torch` is PyTorch itself.
    backend: Any = importlib.import_module("deepspeed.comm.torch")
    backend.build_shm_op = _no_op
    deepspeed.init_distributed("gloo")


def _no_op() -> None:
    return None


@contextmanager
def temporary_process_group() -> Iterator[None]:
    """This process's ranks over gloo, as its environment variables say; undone afterwards. For tests and benchmarks.

    DeepSpeed keeps the groups that it made in its modules, and would use them after their end.
    """
    import deepspeed
    from deepspeed.utils import groups

    before = dict(vars(groups))
    init_gloo()
    try:
        yield
    finally:
        dist.destroy_process_group()
        vars(groups).update(before)
        deepspeed.comm.comm.cdb = None
