"""Compares searches with an exhaustive grid, and two trials at the same time with one, on a small simulated study.

margin: a search (Optuna's TPE sampler, ASHA) and the whole grid of the same settings. Compared are the runs of the best
setting of each with new seeds, and the training steps that each search took.
guidance: the objective of every setting of a grid is measured once. Then searches from many seeds try a quarter of the
settings; their objectives are taken from the grid, as the objective of a setting does not depend on what was
reconstructed before. Compared is the best objective of each with that of the grid.
concurrent: the same trials one after the other and two at the same time; each trial is one rank with one thread.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from neuroimagen.benchmarks.machine import processor
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.tune.config import GuidanceSearch, search_of
from neuroimagen.tune.records import SearchFolder, TrialRecord, read_lines
from neuroimagen.tune.report.result import environment
from neuroimagen.tune.samplers.proposals import proposals_for

HELP = "searches compared with exhaustive grids, and trials at the same time with trials one after the other"
EPILOG = """examples:
  neuroimagen bench tune
  neuroimagen bench tune --parts guidance --work runs/tune-bench --json tune.json
"""
PARTS = ("guidance", "margin", "concurrent")
STUDY = ("--images-per-class", "24", "--subjects", "2")
STAGE_STEPS = {"contrastive": 200, "saliency": 200, "semantic": 120, "semantic_detailed": 120}
MARGIN_SPACE = {
    "contrastive.margin": [0.02, 0.1, 0.5, 2.0],
    "contrastive.learning_rate": [1.0e-4, 5.0e-4, 2.0e-3, 1.0e-2],
}
BAD_DEFAULT = ("contrastive.margin=0.02", "contrastive.learning_rate=1e-6")
MARGIN_STEPS = (
    *("contrastive.steps=120", "contrastive.validate_every=20", "contrastive.warmup_steps=10"),
    "contrastive.num_samples=4",
)
GUIDANCE_SPACE = {
    "reconstruct.guidance": [1.0, 2.0, 3.0, 4.5, 6.0, 8.0, 10.0, 13.0],
    "reconstruct.strength": [0.25, 0.4, 0.55, 0.7, 0.85, 1.0],
}
REPLAYS = 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure (default: all)")
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="keep the study and the searches here (default: a temporary folder)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")


def run(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        work = (args.work or Path(scratch)).resolve()
        prepare(work, with_run="guidance" in args.parts)
        figures = {part: _MEASURES[part](work) for part in args.parts}
    for part, found in figures.items():
        print(f"\n{part}")
        for key, value in found.items():
            print(f"  {key:44} {value}")
    if args.json:
        args.json.write_text(
            json.dumps({"device": processor(), "environment": environment(), **figures}, indent=1) + "\n",
            encoding="utf-8",
        )


def neuroimagen(*words: str) -> float:
    """Run a command of the command line; returns its seconds. Raises UserError with the end of its output."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "neuroimagen.launch.cli", *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UserError(f"neuroimagen {' '.join(words)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return time.monotonic() - started


def recipe_path() -> Path:
    from neuroimagen.launch import cli

    return Path(cli.__file__).resolve().parent / "recipes" / "demo.yaml"


def prepare(work: Path, *, with_run: bool) -> None:
    """Make the study, its latents and a trained run, unless they exist."""
    raw, data = work / "raw", work / "data"
    if not data.is_dir():
        neuroimagen("data", "simulate", "--out", str(raw), *STUDY)
        splits = str(raw / "block_splits_by_image_all.pth")
        files = ("--eeg", str(raw / "eeg_5_95_std.pth"), "--splits", splits, "--images", str(raw / "images"))
        neuroimagen("data", "ingest", "eegcvpr40", *files, "--out", str(data))
        neuroimagen("cache", "--data", str(data), "--model", "bundled")
    settings = [f"data.path={data}", *(f"{stage}.steps={steps}" for stage, steps in STAGE_STEPS.items())]
    for stage in STAGE_STEPS if with_run else ():
        if not (work / "run" / stage / "export").is_dir():
            common = ("--config", str(recipe_path()), "--run", str(work / "run"), "--resume", "--num-ranks", "1")
            neuroimagen("train", stage, *common, "--set", *settings)


def tune(kind: str, work: Path, name: str, search: dict[str, Any], *more: str) -> tuple[SearchFolder, dict[str, Any]]:
    """Run a search, or resume it; returns its folder and results."""
    path, out = work / f"{name}.yaml", work / name
    path.write_text(yaml.safe_dump(search, sort_keys=False), encoding="utf-8")
    neuroimagen("tune", kind, "--config", str(path), "--out", str(out), "--resume", *more)
    return SearchFolder(out), json.loads((out / "results.json").read_text(encoding="utf-8"))


def measure_margin(work: Path) -> dict[str, Any]:
    """The search compared with the grid, by the runs of the best setting of each with new seeds."""
    common = {"recipe": str(recipe_path()), "objective": "accuracy", "space": MARGIN_SPACE, "confirm_seeds": 3}
    settings = ("--set", f"data.path={work / 'data'}", *BAD_DEFAULT, *MARGIN_STEPS)
    _, grid = tune("margin", work, "margin-grid", common | {"sampler": "grid", "scheduler": "none"}, *settings)
    found = common | {"num_trials": 12, "startup_trials": 6, "scheduler": "asha", "reduction_factor": 3}
    _, search = tune("margin", work, "margin-search", found, *settings)
    (of_grid,), (of_search,) = grid["comparisons"], search["comparisons"]
    return {
        "grid: settings": grid["cost"]["trials"],
        "grid: training steps": grid["cost"]["steps_of_search"],
        "grid: best setting": grid["best"]["values"],
        "grid: accuracy, 3 new seeds": of_grid["best"],
        "search: trials": search["cost"]["trials"],
        "search: training steps": search["cost"]["steps_of_search"],
        "search: share of the grid's steps": search["cost"]["steps_of_search"] / grid["cost"]["steps_of_search"],
        "search: best setting": search["best"]["values"],
        "search: accuracy, 3 new seeds": of_search["best"],
        "bad default: accuracy, 3 new seeds": of_search["default"],
        "search - bad default": of_search["difference"],
        "search - grid, points": 100 * (of_search["best"]["mean"] - of_grid["best"]["mean"]),
    }


def measure_guidance(work: Path) -> dict[str, Any]:
    """The best objective that searches reach with a quarter of the evaluations, as a share of the grid's best."""
    tree = {"sampler": "grid", "num_segments": 48, "confirm_seeds": 0, "space": GUIDANCE_SPACE}
    folder, _ = tune("guidance", work, "guidance-grid", tree, "--run", str(work / "run"))
    known = {tuple(record.values.values()): record.figures["objective"] for record in folder.records()}
    best, quarter = max(known.values()), len(known) // 4
    reached = {
        sampler: [
            max(replay(known, {**tree, "sampler": sampler, "seed": seed}, quarter)) / best for seed in range(REPLAYS)
        ]
        for sampler in ("gp", "tpe", "random")
    }
    # And one search through Ray, with the options that a user would give.
    once = tree | {"sampler": "gp", "num_trials": quarter, "startup_trials": quarter // 3}
    _, found = tune("guidance", work, "guidance-search", once, "--run", str(work / "run"))
    return {
        "grid: settings": len(known),
        "grid: best objective": best,
        "grid: worst objective": min(known.values()),
        "grid: settings within 98 % of the best": sum(value >= 0.98 * best for value in known.values()),
        "search: evaluations": quarter,
        "search: share of the best, one run through Ray": found["best"]["figures"]["objective"] / best,
        **{
            f"{sampler}: {what}": figure
            for sampler, shares in reached.items()
            for what, figure in (
                ("share of the best, median of replays", statistics.median(shares)),
                ("share of the best, 10th percentile", float(np.percentile(shares, 10))),
                ("replays that reach 98 %", share_of(shares)),
            )
        },
        "replays": REPLAYS,
    }


def share_of(reached: list[float]) -> float:
    return sum(value >= 0.98 for value in reached) / len(reached)


def replay(known: dict[tuple[Any, ...], float], tree: dict[str, Any], num: int) -> list[float]:
    """The objectives of the first `num` settings of a search, taken from `known`."""
    search = search_of(tree | {"startup_trials": max(1, num // 3)}, "guidance", where="replay")
    assert isinstance(search, GuidanceSearch)
    proposals = proposals_for(search, search.objectives, [])
    values = []
    for number in range(num):
        setting = proposals.next(str(number))
        assert setting is not None
        values.append(known[tuple(setting.values())])
        figures = {"objective": values[-1]}
        proposals.tell(TrialRecord(name=str(number), values=setting, seed=0, state="finished", figures=figures))
    return values


def measure_concurrent(work: Path) -> dict[str, Any]:
    """Four trials one after the other, and two at the same time; the two ways are measured in turn, twice each."""
    search = {
        **{"recipe": str(recipe_path()), "space": {"contrastive.margin": [0.1, 0.2, 0.5, 1.0]}},
        **{"sampler": "grid", "scheduler": "none", "confirm_seeds": 0, "num_ranks": 1},
    }
    settings = ("--set", f"data.path={work / 'data'}", "contrastive.steps=200", "contrastive.validate_every=100")
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for repeat, at_once in enumerate((2, 1, 2, 1)):
        name = f"concurrent-{repeat}-{time.time_ns()}"
        folder, _ = tune("margin", work, name, search, *settings, "--concurrent", str(at_once))
        seconds[at_once].append(span(folder))
    ratio = statistics.median(seconds[1]) / statistics.median(seconds[2])
    return {"seconds, one at a time": seconds[1], "seconds, two at a time": seconds[2], "ratio": ratio}


def span(folder: SearchFolder) -> float:
    """Seconds from the first trial's start to the last one's end."""
    starts = {record.name: read_lines(folder.trial(record.name).starts)[0]["time"] for record in folder.records()}
    ends = [starts[record.name] + record.seconds for record in folder.records()]
    return float(max(ends) - min(starts.values()))


_MEASURES = {"guidance": measure_guidance, "margin": measure_margin, "concurrent": measure_concurrent}
