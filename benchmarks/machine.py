"""The machine that a benchmark runs on: device, driver, versions, and its peak rate of matrix products."""

import importlib.metadata
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch


def describe(device: torch.device, packages: Sequence[str]) -> dict[str, Any]:
    """Device, driver and versions, for the configuration of a results file."""
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 2),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in packages},
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "driver": driver_version(),
            "cuda": torch.version.cuda or torch.version.hip,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_gib": round(properties.total_memory / 2**30, 1),
        }
    return found


def version(package: str) -> str:
    """Version of an installed distribution, or "not installed"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def driver_version() -> str:
    """Version of the GPU's driver, as `nvidia-smi` reports it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return "unknown: nvidia-smi does not answer"
    return answer.splitlines()[0].strip() if answer.strip() else "unknown"


def processor() -> str:
    """The CPU's model name, where the system has it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def now(device: torch.device) -> float:
    """Time in seconds, after all work that is queued on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def timed(step: Callable[[int], None], count: int, device: torch.device) -> float:
    """Seconds per step, over `count` steps that the device may overlap."""
    began = now(device)
    for number in range(count):
        step(number)
    return (now(device) - began) / count


def matrix_peak(
    device: torch.device, dtype: torch.dtype, *, sizes: Sequence[int] = (4096, 8192, 16384), products: int = 10
) -> dict[str, Any]:
    """The device's matrix peak as PyTorch reaches it: n³ products of random numbers in `dtype`, back to back.

    For each size the median of five blocks of `products`; the peak is the best size's. TFLOP/s, 2·n³ per product.
    """
    rates = {}
    for size in sizes:
        # Random numbers: products of zeros draw less power, so that the GPU clocks higher than it does in training.
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)

        def product(_: int, a: torch.Tensor = a, b: torch.Tensor = b, out: torch.Tensor = out) -> None:
            torch.mm(a, b, out=out)

        timed(product, products, device)
        rates[size] = 2 * size**3 / statistics.median(timed(product, products, device) for _ in range(5)) / 1e12
    best = max(rates, key=rates.__getitem__)
    return {"tflops": rates[best], "size": best, "dtype": str(dtype).removeprefix("torch.")}
