"""Which backend serves a call of the semi-hard miner: PyTorch or Triton."""

import importlib.util
import os

import torch

MAX_SCANNED_POSITIVES = 64
"""Largest number of positives per anchor for which the fused kernel is chosen: the cost of its scan grows with them,
that of sort and search hardly does.
"""


def choose_backend(backend: str, device: torch.device, num_positives: int, dtype: torch.dtype = torch.float32) -> str:
    """ "torch" or "triton", for a call in which an anchor has at most `num_positives` positives.

    "auto" takes the fused kernel on an NVIDIA GPU from sm_80 or an AMD gfx942, with at most MAX_SCANNED_POSITIVES
    positives and rows of at most 32 bits; the chunked backend otherwise (CPU; few classes in a huge batch; float64).

    Raises:
        ValueError: backend="triton" where it cannot run.
    """
    if backend == "torch":
        return "torch"
    if backend == "auto" and (device.type == "cpu" or num_positives > MAX_SCANNED_POSITIVES):
        return "torch"
    obstacle = _triton_obstacle(device, dtype)
    if backend == "triton" and obstacle:
        raise ValueError(f'backend="triton" cannot serve this call: {obstacle}. Use backend="auto" or "torch".')
    return "torch" if obstacle else "triton"


def _triton_obstacle(device: torch.device, dtype: torch.dtype) -> str:
    """Why the Triton kernels cannot run here; empty if they can."""
    if importlib.util.find_spec("triton") is None:
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
