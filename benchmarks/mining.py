"""Semi-hard triplet loss, forward and backward: time and peak memory of ours beside what is public, and the device's
roofs.

Each method first runs alone in a process of its own, which tells its peak memory above the inputs or how it fails
(memory limit, time limit). Those that survive then take turns in one process; figures are medians over the turns, with
the smallest and the largest. On a GPU, memory is PyTorch's own count of the largest allocation.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuroimagen.benchmarks.mining_methods import Method, methods

HELP = "semi-hard mining and its loss beside sentence-transformers, pytorch-metric-learning and the dense formula"
EPILOG = """examples:
  neuroimagen bench mining
  neuroimagen bench mining --sizes 2048 --repeats 9
  neuroimagen bench mining --sizes 4096 16384 65536 --classes 16384 --positives 4 --json mining.json --plot mining.png
"""
Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Case:
    """N unit-norm rows of D features in `classes` equal classes, spread around class centres."""

    size: int
    features: int
    classes: int
    positives: str | int
    device: str
    threads: int
    seed: int = 0

    def inputs(self) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        labels = torch.arange(self.size) % self.classes
        centres = torch.randn(self.classes, self.features, generator=generator)
        rows = centres[labels] + 2 * torch.randn(self.size, self.features, generator=generator)
        return torch.nn.functional.normalize(rows, dim=1).to(self.device), labels.to(self.device)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[512, 2048], metavar="N", help="rows (default: 512 2048)"
    )
    parser.add_argument("--features", type=int, nargs="+", default=[128], metavar="D", help="features (default: 128)")
    parser.add_argument("--classes", type=int, nargs="+", default=[40], metavar="C", help="classes (default: 40)")
    parser.add_argument(
        "--positives", nargs="+", default=["all"], metavar="K", help='positives an anchor, or "all" (default: all)'
    )
    parser.add_argument("--repeats", type=int, default=5, metavar="R", help="turns of each method (default: 5)")
    parser.add_argument("--threads", type=int, default=1, metavar="T", help="PyTorch's threads on a CPU (default: 1)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument(
        "--memory-gb", type=float, default=8, metavar="GB", help="address space of a method on the CPU (default: 8)"
    )
    parser.add_argument(
        "--time-limit", type=float, default=120, metavar="S", help="seconds one pass may take (default: 120)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw time and memory over N (PNG or SVG)")
    parser.add_argument("--probe", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> None:
    if args.probe:
        print(json.dumps(_probe_here(json.loads(args.probe))))
        return
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(args.threads)
    report: Figures = {"configuration": _configuration(device, args.threads, args.repeats), "roofs": roofs(device)}
    print(json.dumps(report))
    report["cases"] = []
    for size in args.sizes:
        for features in args.features:
            for classes in args.classes:
                for positives in args.positives:
                    case = Case(
                        size=size,
                        features=features,
                        classes=min(classes, size),
                        positives=positives if positives == "all" else int(positives),
                        device=device,
                        threads=args.threads,
                    )
                    figures = measure(case, repeats=args.repeats, memory_gb=args.memory_gb, time_limit=args.time_limit)
                    _print(case, figures, report["roofs"])
                    report["cases"].append({**asdict(case), "methods": figures})
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print(f"figures: {args.json}")
    if args.plot:
        plot(report, args.plot)
        print(f"plot: {args.plot}")


def measure(case: Case, *, repeats: int, memory_gb: float, time_limit: float) -> dict[str, Figures]:
    """Method → its figures, or {"failed": why}."""
    chosen = [method for method in methods(case.device) if case.positives == "all" or not method.all_pairs]
    figures = {method.name: _probe(method, case, memory_gb=memory_gb, time_limit=time_limit) for method in chosen}
    rows, labels = case.inputs()
    rows.requires_grad_()
    running = {m.name: m.build(case.positives) for m in chosen if "failed" not in figures[m.name]}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in running}
    for turn in range(repeats + 1):
        for name, function in running.items():
            forward, backward, value = _timed_pass(function, rows, labels)
            if turn:
                times[name].append((forward, backward))
                figures[name]["loss"] = value
    for name, values in times.items():
        parts = zip(*values, strict=True)
        for part, seconds in zip(("forward", "backward"), parts, strict=True):
            figures[name][f"{part}_ms"] = _summary(seconds)
        figures[name]["total_ms"] = _summary([sum(value) for value in values])
    return figures


def _timed_pass(
    function: Callable[[Tensor, Tensor], Tensor], rows: Tensor, labels: Tensor
) -> tuple[float, float, float]:
    """Seconds of the forward pass, of the backward pass, and the loss."""
    rows.grad = None
    started = _now(rows)
    loss = function(rows, labels)
    middle = _now(rows)
    loss.backward()
    return middle - started, _now(rows) - middle, float(loss.detach())


def _now(rows: Tensor) -> float:
    if rows.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


def _summary(seconds: list[float] | tuple[float, ...]) -> dict[str, float]:
    return {
        "median": round(1e3 * statistics.median(seconds), 3),
        "min": round(1e3 * min(seconds), 3),
        "max": round(1e3 * max(seconds), 3),
    }


def _probe(method: Method, case: Case, *, memory_gb: float, time_limit: float) -> Figures:
    """Peak memory of one pass in a process of its own."""
    question = json.dumps({"method": method.name, "case": asdict(case), "memory_gb": memory_gb})
    command = [sys.executable, "-m", "neuroimagen.benchmarks.mining", "--probe", question]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=time_limit + 60)
    except subprocess.TimeoutExpired:
        return {"failed": f"more than {time_limit:.0f} s"}
    if done.returncode:
        return {"failed": f"ended with code {done.returncode}"}
    answer: Figures = json.loads(done.stdout.splitlines()[-1])
    if answer.get("seconds", 0) > time_limit:
        return {"failed": f"more than {time_limit:.0f} s"}
    return answer


def _probe_here(question: Figures) -> Figures:
    case = Case(**question["case"])
    torch.set_num_threads(case.threads)
    function = next(m for m in methods(case.device) if m.name == question["method"]).build(case.positives)
    # A small pass first: what libraries allocate once is not the method's.
    small = Case(**{**question["case"], "size": min(256, case.size), "classes": min(40, case.classes)})
    rows, labels = small.inputs()
    _timed_pass(function, rows.requires_grad_(), labels)
    rows, labels = case.inputs()
    rows.requires_grad_()
    if case.device == "cpu":
        import resource

        limit = int(question["memory_gb"] * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (_status_bytes("VmSize") + limit, resource.RLIM_INFINITY))
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from here
        before = _status_bytes("VmRSS")
    else:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    try:
        forward, backward, _ = _timed_pass(function, rows, labels)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "memory" not in str(error):
            raise
        return {"failed": f"out of memory ({question['memory_gb']:g} GB)" if case.device == "cpu" else "out of memory"}
    after = _status_bytes("VmHWM") if case.device == "cpu" else torch.cuda.max_memory_allocated()
    return {"peak_mb": round((after - before) / 1e6, 1), "seconds": round(forward + backward, 4)}


def _status_bytes(field: str) -> int:
    """A figure of /proc/self/status (VmSize, VmRSS, VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field + ":")).split()[1])


def roofs(device: str) -> Figures:
    """What the device does at best, measured now: a matrix product and a copy."""
    size, dtype = (8192, torch.float16) if device == "cuda" else (2048, torch.float32)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    source = torch.zeros((1 << 30 if device == "cuda" else 1 << 27) // 4, device=device)
    target = torch.empty_like(source)
    product = _best_of(lambda: torch.mm(a, b), a)
    copy = _best_of(lambda: target.copy_(source), a)
    return {
        "product": f"{size}³ {str(dtype).removeprefix('torch.')}",
        "tflops": round(2 * size**3 / product / 1e12, 3),
        "copy_gb_per_s": round(2 * source.nbytes / copy / 1e9, 1),
    }


def _best_of(function: Callable[[], Tensor], where: Tensor, repeats: int = 7) -> float:
    times = []
    for _ in range(repeats):
        started = _now(where)
        function()
        times.append(_now(where) - started)
    return min(times)


def _configuration(device: str, threads: int, repeats: int) -> Figures:
    versions = {}
    for package in ("neuroimagen", "torch", "triton", "numpy", "pytorch-metric-learning", "sentence-transformers"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    name = torch.cuda.get_device_name() if device == "cuda" else _processor()
    return {
        "device": name,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": threads,
        "repeats": repeats,
        "versions": versions,
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def _print(case: Case, figures: dict[str, Figures], roof: Figures) -> None:
    product_ms = 2e3 * case.size**2 * case.features / (roof["tflops"] * 1e12)
    print(
        f"\nN={case.size} D={case.features} classes={case.classes} positives={case.positives} on {case.device}; "
        f"its N × N × D product at the measured roof: {product_ms:.2f} ms"
    )
    heads = ("forward", "backward", "total ms", "min", "max", "÷ ours", "peak MB")
    print(f"{'method':<28}" + "".join(f"{head:>10}" for head in heads) + "  loss")
    ours = next((figure["total_ms"]["median"] for figure in figures.values() if "total_ms" in figure), None)
    for name, figure in figures.items():
        if ours is None or "failed" in figure:
            print(f"{name:<28}{figure.get('failed', '')}")
            continue
        total = figure["total_ms"]
        values = (
            figure["forward_ms"]["median"],
            figure["backward_ms"]["median"],
            *(total[key] for key in ("median", "min", "max")),
            total["median"] / ours,
            figure["peak_mb"],
        )
        print(f"{name:<28}" + "".join(f"{value:>10.2f}" for value in values) + f"  {figure['loss']:.6f}")


def plot(report: Figures, path: Path) -> None:
    """Time and peak memory over N, a line a method and choice of positives; both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lines: dict[str, list[tuple[int, float, float]]] = {}
    for case in report["cases"]:
        for name, figure in case["methods"].items():
            if "total_ms" in figure:
                label = name if case["positives"] == "all" else f"{name}, K={case['positives']}"
                label += "" if len({c["features"] for c in report["cases"]}) == 1 else f", D={case['features']}"
                lines.setdefault(label, []).append((case["size"], figure["total_ms"]["median"], figure["peak_mb"]))
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    for label, points in lines.items():
        sizes, times, memory = zip(*sorted(points), strict=True)
        axes[0].plot(sizes, times, marker="o", label=label)
        axes[1].plot(sizes, memory, marker="o")
    for axis, quantity in zip(axes, ("forward + backward (ms)", "peak memory above the inputs (MB)"), strict=True):
        axis.set(xscale="log", yscale="log", xlabel="N", ylabel=quantity)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8, frameon=False)
    figure.suptitle(report["configuration"]["device"], fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """`python -m neuroimagen.benchmarks.mining`."""
    parser = argparse.ArgumentParser(description=HELP, epilog=EPILOG)
    add_arguments(parser)
    run(parser.parse_args())


if __name__ == "__main__":
    main()
