"""Semi-hard triplet loss, forward and backward: time and peak memory of ours beside public implementations, and the
device's peak rates.

Each method first runs alone (mining_worker.py), which gives its peak memory beyond the inputs, or how it fails: memory
limit, time limit, an error. Those that do not fail then take turns in one process; figures are medians over the turns,
with the smallest and the largest. A method that fails for N rows is not tried with more. On a GPU, memory is PyTorch's
count of the largest allocation. This module needs PyTorch and Triton only.
"""

import argparse
import json
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import torch

from neuroimagen.benchmarks.machine import describe
from neuroimagen.benchmarks.mining_methods import methods
from neuroimagen.benchmarks.mining_worker import STARTING_SECONDS, Case, Figures, Worker, best_of

HELP = "semi-hard mining and its loss beside sentence-transformers, pytorch-metric-learning and plain PyTorch"
EPILOG = """examples:
  neuroimagen bench mining
  neuroimagen bench mining --sizes 2048 --repeats 9
  neuroimagen bench mining --sizes 4096 16384 65536 --classes 16384 --positives 4 --json mining.json --plot mining.png
  neuroimagen bench mining --full --json benchmarks/results/mining-h100.json
  neuroimagen bench mining --full --features 128 --json benchmarks/results/mining-h100-128.json

--full is the comparison for a GPU: N 1,024 to 131,072, D 128, 512 and 1,024, 40 and 1,000 classes, 1, 4, 8 and all
positives, ten seconds per pass at most. `python -m neuroimagen.benchmarks.mining` is the same command, for a machine
without the rest of neuroimagen's dependencies.
"""
PACKAGES = ("neuroimagen", "torch", "triton", "numpy", "pytorch-metric-learning", "sentence-transformers")
DEFAULTS: dict[str, Any] = {
    "sizes": [512, 2048], "features": [128], "classes": [40], "positives": ["all"], "time_limit": 120.0,
}  # fmt: skip
FULL: dict[str, Any] = {
    "sizes": [1024, 4096, 16384, 65536, 131072],
    "features": [128, 512, 1024],
    "classes": [40, 1000],
    "positives": ["all", "1", "4", "8"],
    "time_limit": 10.0,
}


def count(text: str) -> int:
    """An option's value: a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def positives_of(text: str) -> str:
    """`all`, or a whole number of at least 1."""
    return text if text == "all" else str(count(text))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--full", action="store_true", help="the comparison for a GPU; other options replace its sizes")
    parser.add_argument("--sizes", type=count, nargs="+", metavar="N", help="rows (default: 512 2048)")
    parser.add_argument("--features", type=count, nargs="+", metavar="D", help="features (default: 128)")
    parser.add_argument("--classes", type=count, nargs="+", metavar="C", help="classes (default: 40)")
    parser.add_argument(
        "--positives", type=positives_of, nargs="+", metavar="K", help='positives per anchor, or "all" (default: all)'
    )
    parser.add_argument("--repeats", type=count, default=5, metavar="R", help="turns of each method (default: 5)")
    parser.add_argument("--threads", type=count, default=1, metavar="T", help="PyTorch's threads on a CPU (default: 1)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if there is a GPU")
    parser.add_argument(
        "--memory-gb",
        type=float,
        default=8,
        metavar="GB",
        help="limit of a method's memory on the CPU (default: 8)",
    )
    parser.add_argument("--time-limit", type=float, metavar="S", help="seconds one pass may take (default: 120)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file, case by case")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="plot time and memory over N (PNG or SVG)")


def run(args: argparse.Namespace) -> None:
    preset = FULL if args.full else DEFAULTS
    chosen = {name: getattr(args, name) or value for name, value in preset.items()}
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(args.threads)
    settings = {"threads": args.threads, "repeats": args.repeats, "time_limit": chosen["time_limit"]}
    report: Figures = {
        "configuration": {**describe(torch.device(device), PACKAGES), **settings},
        "roofs": roofs(device),
        "cases": [],
    }
    print(json.dumps(report))
    failed: dict[tuple[Any, ...], Figures] = {}
    with Worker() as worker:
        # Sizes in the inner loop: a method that fails for one is not tried with the next.
        for features, classes, positives in product(chosen["features"], chosen["classes"], chosen["positives"]):
            for size in sorted(chosen["sizes"]):
                case = Case(
                    size=size,
                    features=features,
                    classes=min(classes, size),
                    positives=positives if positives == "all" else int(positives),
                    device=device,
                    threads=args.threads,
                )
                known = {key[-1]: why for key, why in failed.items() if key[:-1] == (features, classes, positives)}
                figures = measure(worker, case, args.repeats, args.memory_gb, chosen["time_limit"], known)
                for name, found in figures.items():
                    if "failed" in found and name not in known:
                        failed[features, classes, positives, name] = {"failed": f"{found['failed']} at N={size}"}
                show(case, figures, report["roofs"])
                report["cases"].append({**asdict(case), "methods": figures})
                if args.json:
                    args.json.parent.mkdir(parents=True, exist_ok=True)
                    args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if args.json:
        print(f"figures: {args.json}")
    if args.plot:
        plot(report, args.plot)
        print(f"plot: {args.plot}")


def measure(
    worker: Worker, case: Case, repeats: int, memory_gb: float, time_limit: float, known: dict[str, Figures]
) -> dict[str, Figures]:
    """Method → its figures, or {"failed": why}; methods in `known` are not tried."""
    chosen = [m.name for m in methods(case.device) if case.positives == "all" or not m.all_pairs]
    figures: dict[str, Figures] = {}
    patience = 3 * time_limit + STARTING_SECONDS
    for name in chosen:
        question = {"case": asdict(case), "probe": name, "memory_gb": memory_gb}
        found = known.get(name) or worker.ask(question, time_limit=patience)
        if found.get("seconds", 0) > time_limit:
            found = {"failed": f"more than {time_limit:g} s"}
        figures[name] = dict(found)
        if case.device == "cpu":
            worker.close()  # so that the next method's memory is measured in a new process
    running = [name for name in chosen if "failed" not in figures[name]]
    question = {"case": asdict(case), "methods": running, "repeats": repeats}
    seconds = sum(figures[name]["seconds"] for name in running)
    timed = worker.ask(question, time_limit=3 * (repeats + 1) * seconds + STARTING_SECONDS)
    for name in running:
        figures[name] |= {"failed": timed["failed"]} if "failed" in timed else timed[name]
    return figures


def roofs(device: str) -> Figures:
    """The device's peak rates, measured now: a matrix product and a copy."""
    size, dtype = (8192, torch.float16) if device == "cuda" else (2048, torch.float32)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    source = torch.zeros((1 << 30 if device == "cuda" else 1 << 27) // 4, device=device)
    target = torch.empty_like(source)
    seconds = best_of(lambda: torch.mm(a, b), a)
    copy = best_of(lambda: target.copy_(source), a)
    found = {
        "product": f"{size}³ {str(dtype).removeprefix('torch.')}",
        "tflops": round(2 * size**3 / seconds / 1e12, 3),
        "copy_gb_per_s": round(2 * source.nbytes / copy / 1e9, 1),
    }
    if device == "cuda":  # leave all of the memory to the worker
        del a, b, source, target
        torch.cuda.empty_cache()
    return found


def show(case: Case, figures: dict[str, Figures], roof: Figures) -> None:
    product_ms = 2e3 * case.size**2 * case.features / (roof["tflops"] * 1e12)
    print(
        f"\nN={case.size} D={case.features} classes={case.classes} positives={case.positives} on {case.device}; "
        f"the N × N × D product at the measured peak takes {product_ms:.2f} ms"
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
    """Time and peak memory over N, one line per method and choice of positives; both axes logarithmic."""
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
    for axis, quantity in zip(axes, ("forward + backward (ms)", "peak memory beyond the inputs (MB)"), strict=True):
        axis.set(xscale="log", yscale="log", xlabel="N", ylabel=quantity)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8, frameon=False)
    figure.suptitle(report["configuration"]["device"], fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """`python -m neuroimagen.benchmarks.mining`."""
    parser = argparse.ArgumentParser(
        description=HELP, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    run(parser.parse_args())


if __name__ == "__main__":
    main()
