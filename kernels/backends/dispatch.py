"""Which backend serves a call: PyTorch or Triton."""

import functools
import importlib.util
import logging
import os
import shutil
import subprocess

import torch

_logger = logging.getLogger(__name__)

MAX_SCANNED_POSITIVES = 64
"""Largest number of positives per anchor for which the miner's fused kernel is chosen: the cost of its scan grows with
them, that of sort and search hardly does.
"""


def choose_backend(
    backend: str, device: torch.device, *, num_positives: int = 0, dtype: torch.dtype = torch.float32
) -> str:
    """ "torch" or "triton", for rows of `dtype` on `device`; in mining, an anchor has at most `num_positives` positives.

    "auto" takes the Triton kernels on an NVIDIA GPU from sm_80 or an AMD gfx942, with at most MAX_SCANNED_POSITIVES
    positives and rows of at most 32 bits; PyTorch otherwise (CPU; few classes in a huge batch; float64). Where the GPU
    could run them and this installation cannot, a warning says so, once.

    Raises:
        ValueError: backend="triton" where it cannot run.
    """
    if backend == "torch":
        return "torch"
    if backend == "auto" and (device.type == "cpu" or num_positives > MAX_SCANNED_POSITIVES):
        return "torch"
    obstacle = _call_obstacle(device, dtype)
    missing = "" if obstacle or device.type == "cpu" else _installation_obstacle()
    if backend == "triton" and (obstacle or missing):
        raise ValueError(
            f'backend="triton" cannot serve this call: {obstacle or missing}. Use backend="auto" or "torch".'
        )
    if missing:
        _warn_once(missing)
    return "torch" if obstacle or missing else "triton"


def _call_obstacle(device: torch.device, dtype: torch.dtype) -> str:
    """Why the Triton kernels cannot serve these rows on this device; empty if they can."""
    if importlib.util.find_spec("triton") is None and device.type == "cpu":
        return "triton is not installed"
    if dtype == torch.float64:
        return "its loss is float32 and the rows are float64"
    if device.type == "cpu":
        return "" if os.environ.get("TRITON_INTERPRET") == "1" else "the rows are on the CPU"
    if device.type != "cuda":
        return f"the rows are on {device}"
    if torch.version.hip:
        name = torch.cuda.get_device_properties(device).gcnArchName
        return "" if name.startswith("gfx942") else f"{name} is not gfx942"
    major, minor = torch.cuda.get_device_capability(device)
    return "" if major >= 8 else f"compute capability {major}.{minor} is below 8.0"


@functools.cache
def _installation_obstacle() -> str:
    """Why Triton cannot launch kernels on this machine's GPUs; empty if it can.

    Triton compiles its driver and, in some versions, a launcher for each kernel with a C compiler, at the first launch:
    in the middle of a step, where nothing can be chosen any more.
    """
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "Triton needs a C compiler, and neither gcc nor clang is on the PATH nor does the variable CC name one"
    try:
        _start_driver()
    except (RuntimeError, ImportError, OSError, subprocess.SubprocessError) as error:
        return f"Triton's driver does not start ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
    return ""


def _start_driver() -> None:
    from triton.runtime import driver

    driver.active.get_current_target()


@functools.cache
def _warn_once(reason: str) -> None:
    _logger.warning("The losses use PyTorch instead of the Triton kernels, which are faster: %s.", reason)
