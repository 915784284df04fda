"""InfoNCE, forward and backward: time and peak memory of ours beside the loss on the matrix of all pairs.

Both compute CLIP's loss of N pairs with distinct labels, and the gradients of both sides and of the logit scale. They
take turns in one process; a turn's ratio is ours over the dense loss. On a CPU, times are CPU seconds of one thread by
default, so that what other processes take does not count; on a GPU they are seconds. Memory is the largest beyond the
inputs, in a process of its own; for a size at which the dense loss may not fit, ours is measured alone.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuroimagen.benchmarks.machine import describe
from neuroimagen.benchmarks.mining import count
from neuroimagen.benchmarks.mining_worker import status_bytes
from neuroimagen.kernels.backends.infonce_reference import dense_infonce
from neuroimagen.kernels.infonce import InfoNCELoss

HELP = "InfoNCE beside the loss on the matrix of all pairs: time ratio, peak memory"
EPILOG = """examples:
  neuroimagen bench infonce
  neuroimagen bench infonce --sizes 1024 2048 4096 --features 512 1024 --json benchmarks/results/infonce-cpu.json
  neuroimagen bench infonce --sizes 4096 16384 --large 65536 --json benchmarks/results/infonce-gpu.json
"""
LOGIT_SCALE = 14.3
Figures = dict[str, Any]
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(rows, targets, logit scale) → loss."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", type=count, nargs="+", default=[1024, 2048, 4096], metavar="N", help="pairs")
    parser.add_argument("--features", type=count, nargs="+", default=[1024], metavar="D", help="(default: 1024)")
    parser.add_argument(
        "--large", type=count, default=16_384, metavar="N", help="pairs of ours alone, for the memory (default: 16384)"
    )
    parser.add_argument("--repeats", type=count, default=7, metavar="R", help="turns of each loss (default: 7)")
    parser.add_argument("--threads", type=count, default=1, metavar="T", help="PyTorch's threads on a CPU (default: 1)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if there is a GPU")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")


def run(args: argparse.Namespace) -> None:
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.set_num_threads(args.threads)
    report: Figures = {
        "configuration": {
            **describe(device, ("neuroimagen", "torch", "triton")),
            "repeats": args.repeats,
            "clock": "seconds" if device.type == "cuda" else "CPU seconds",
        },
        "cases": [],
    }
    print(json.dumps(report["configuration"]))
    print(f"{'N':>7}{'D':>6}  {'loss':<12}{'forward ms':>12}{'backward ms':>13}{'÷ dense':>9}{'peak MB':>9}")
    for features in args.features:
        for size in sorted({*args.sizes, args.large}):
            names = list(losses(device)) if size in args.sizes else list(losses(device))[:1]
            figures = take_turns(names, size, features, device, args.repeats if size in args.sizes else 1)
            for name, figure in figures.items():
                figure["peak_mb"] = peak_mb(name, size, features, device, args.threads)
                ratio = f"{figure['ratio']['median']:.2f}" if "ratio" in figure else ""
                print(
                    f"{size:>7}{features:>6}  {name:<12}{figure['forward_ms']:>12.1f}{figure['backward_ms']:>13.1f}"
                    f"{ratio:>9}{figure['peak_mb']:>9.1f}",
                    flush=True,
                )
            report["cases"].append({"size": size, "features": features, "losses": figures})
            if args.json:
                args.json.parent.mkdir(parents=True, exist_ok=True)
                args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def losses(device: torch.device) -> dict[str, Loss]:
    """Name → loss, ours first. On a GPU both of our backends."""
    backends = ("triton", "torch") if device.type == "cuda" else ("torch",)
    ours = {f"ours, {backend}": InfoNCELoss(backend=backend, global_batch=False) for backend in backends}

    def with_labels(loss: InfoNCELoss) -> Loss:
        def call(rows: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
            found: Tensor = loss(rows, targets, torch.arange(len(rows), device=rows.device), logit_scale=scale)
            return found

        return call

    def dense(rows: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
        return dense_infonce(rows, targets, logit_scale=scale)

    return {**{name: with_labels(loss) for name, loss in ours.items()}, "dense": dense}


def inputs(size: int, features: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and targets of unit norm, and the logit scale; all need gradients."""
    generator = torch.Generator().manual_seed(0)
    sides = (torch.randn(size, features, generator=generator) for _ in range(2))
    rows, targets = (torch.nn.functional.normalize(side).to(device).requires_grad_() for side in sides)
    return rows, targets, torch.tensor(LOGIT_SCALE, device=device, requires_grad=True)


def take_turns(names: list[str], size: int, features: int, device: torch.device, repeats: int) -> dict[str, Figures]:
    """Name → median times in ms, the loss's value and, where the dense loss takes part, ours over it in each turn."""
    known = losses(device)
    leaves = inputs(size, features, device)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    figures: dict[str, Figures] = {name: {} for name in names}
    for turn in range(repeats + 1):
        for name in names:
            forward, backward, figures[name]["loss"] = timed_pass(known[name], leaves)
            if turn or repeats == 1:  # the first warms up
                times[name].append((forward, backward))
    for name, passes in times.items():
        for key, seconds in zip(("forward_ms", "backward_ms"), zip(*passes, strict=True), strict=True):
            figures[name][key] = round(1e3 * statistics.median(seconds), 3)
        if "dense" in times and name != "dense":
            ratios = [sum(ours) / sum(dense) for ours, dense in zip(passes, times["dense"], strict=True)]
            figures[name]["ratio"] = {
                "median": round(statistics.median(ratios), 3),
                "min": round(min(ratios), 3),
                "max": round(max(ratios), 3),
            }
    return figures


def timed_pass(loss: Loss, leaves: tuple[Tensor, Tensor, Tensor]) -> tuple[float, float, float]:
    """Seconds of the forward pass and of the backward pass, and the loss."""
    for leaf in leaves:
        leaf.grad = None
    began = clock(leaves[0].device)
    value = loss(*leaves)
    middle = clock(leaves[0].device)
    value.backward()
    return middle - began, clock(leaves[0].device) - middle, float(value.detach())


def clock(device: torch.device) -> float:
    """CPU seconds of this process, or seconds once a GPU is done."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def peak_mb(name: str, size: int, features: int, device: torch.device, threads: int) -> float:
    """Peak memory of one pass beyond the inputs (the gradients count), in a process of its own."""
    # Spawned, not forked: CUDA does not work in a forked process.
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(measure_peak, (name, size, features, str(device), threads))


def measure_peak(name: str, size: int, features: int, device_name: str, threads: int) -> float:
    """As `peak_mb`, in this process."""
    device = torch.device(device_name)
    torch.set_num_threads(threads)
    loss = losses(device)[name]
    timed_pass(loss, inputs(min(64, size), features, device))  # what libraries allocate once is not counted
    leaves = inputs(size, features, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        timed_pass(loss, leaves)
        return round((torch.cuda.max_memory_allocated(device) - before) / 1e6, 1)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # resets VmHWM
    before = status_bytes("VmRSS")
    timed_pass(loss, leaves)
    return round((status_bytes("VmHWM") - before) / 1e6, 1)
