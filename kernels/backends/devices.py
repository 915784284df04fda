"""What the Triton kernels have to know of a GPU: its architecture, its shared memory, and how to launch on it."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

FAMILIES = (
    # (first sm, family, bytes of shared memory that one block may use). The last whose first is not above the device's.
    (80, "ampere", 166_912),
    (86, "ampere", 101_376),  # consumer Ampere and Ada
    (90, "hopper", 232_448),
    (100, "blackwell", 232_448),  # data centre: sm_100, sm_103, sm_110
    (120, "ampere", 101_376),  # consumer Blackwell has neither Hopper's nor Blackwell's matrix unit
)
"""Families of NVIDIA GPUs by matrix unit: "ampere" multiplies from registers, the others from shared memory."""


def device_arch(device: torch.device) -> int | str:
    """80, 90, … or "gfx942"; a CPU (the interpreter) counts as 90."""
    if device.type == "cpu":
        return 90
    if torch.version.hip:
        return torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def family(arch: int | str) -> str:
    """ "ampere", "hopper", "blackwell" or "cdna" of an architecture, also of one that is newer than this list."""
    return "cdna" if isinstance(arch, str) else _entry(arch)[1]


def shared_memory(arch: int | str) -> int:
    """Bytes of shared memory that one block may use."""
    return 65_536 if isinstance(arch, str) else _entry(arch)[2]


def _entry(arch: int) -> tuple[int, str, int]:
    known = [entry for entry in FAMILIES if entry[0] <= arch]
    if not known:
        raise ValueError(f"the kernels need compute capability 8.0 or later, not {arch / 10}")
    return known[-1]


def launching_on(device: torch.device) -> AbstractContextManager[object]:
    """Make `device` the current one: Triton launches on the current device, whatever its arguments lie on."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def launches_kernels(function: Callable[Concatenate[Tensor, P], R]) -> Callable[Concatenate[Tensor, P], R]:
    """Decorator of a function that launches kernels on the device of its first argument."""

    @functools.wraps(function)
    def on_device(rows: Tensor, *args: P.args, **kwargs: P.kwargs) -> R:
        with launching_on(rows.device):
            return function(rows, *args, **kwargs)

    return on_device


def num_multiprocessors(device: torch.device) -> int:
    """Multiprocessors of a GPU; 1 for a CPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
