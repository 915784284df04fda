"""What the studies over seeds share: commands in one folder per seed, a file of figures, means with intervals.

A study compares two arms. Its seed is that of the simulated data and of all training, so the two arms of a seed differ
only in what is studied, and the difference is taken within each seed.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neuroimagen.benchmarks.machine import describe
from neuroimagen.data_shards.common.arrays import Floats, Integers
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.files import atomic_path
from neuroimagen.trainer.evaluation.intervals import bootstrap_difference, bootstrap_mean
from neuroimagen.tune.intervals import Range, student_interval

Figures = dict[str, Any]
Measure = Callable[[int, Path], Figures]
"""(seed, folder of the seed) → the figures of the seed. It resumes in a folder where it was interrupted."""


def add_study_arguments(parser: argparse.ArgumentParser, *, seeds: Sequence[int]) -> None:
    """Add the options that every study has."""
    shown = ", ".join(map(str, seeds))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds), metavar="N", help=f"default: {shown}")
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="keep data and runs here, and resume from those that exist (default: "
        "a temporary folder)",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file, seed by seed")


def recipe_path(name: str) -> Path:
    """The path of a recipe that comes with neuroimagen."""
    from neuroimagen.launch import cli

    return Path(cli.__file__).resolve().parent / "recipes" / name


def neuroimagen(*words: str) -> None:
    """Run a command of the command line. Raises UserError with the end of its output if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "neuroimagen.launch.cli", *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UserError(f"neuroimagen {' '.join(words)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def simulate(data: Path, seed: int, options: Sequence[str]) -> None:
    """Simulate the data set of a study, unless it exists."""
    if not (data / "dataset.json").is_file():
        neuroimagen("data", "simulate", "--out", str(data), "--format", "shards", "--seed", str(seed), *options)


def train(stage: str, recipe: Path, run: Path, settings: Sequence[str]) -> None:
    """Train a stage of `run` on one rank, unless it is trained. Training that was interrupted is resumed."""
    if not (run / stage / "export").is_dir():
        one_rank = ("--num-ranks", "1", "--resume")
        neuroimagen("train", stage, "--config", str(recipe), "--run", str(run), *one_rank, "--set", *settings)


def measured(configuration: Figures, seeds: Sequence[int], measure: Measure, args: argparse.Namespace) -> list[Figures]:
    """The figures of every seed, in the order of `seeds`. Those in the file `args.json` are not measured again.

    Raises UserError if that file holds figures of another configuration.
    """
    machine = describe(torch.device("cpu"), ("neuroimagen", "torch", "numpy"))
    report: Figures = {"configuration": configuration, "machine": machine, "studies": []}
    if args.json and args.json.is_file():
        before = json.loads(args.json.read_text(encoding="utf-8"))
        if before.get("configuration") != configuration:
            raise UserError(f"{args.json} holds figures of another configuration. Choose another --json.")
        report = before
    found: dict[int, Figures] = {study["seed"]: study for study in report["studies"]}
    with tempfile.TemporaryDirectory(prefix="study-") as scratch:
        for seed in seeds:
            if seed in found:
                continue
            found[seed] = {"seed": seed, **measure(seed, (args.work or Path(scratch)).resolve() / f"seed-{seed}")}
            report["studies"] = [found[number] for number in sorted(found)]
            write_report(report, args.json)
    return [found[seed] for seed in seeds]


def write_report(report: Figures, path: Path | None) -> None:
    """Write the file of figures atomically; do nothing without a path."""
    if path is not None:
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def add_summary(summary: Figures, seeds: Sequence[int], path: Path | None) -> None:
    """Add the figures over `seeds` to the file that `measured` has written."""
    if path is not None:
        joined = json.loads(path.read_text(encoding="utf-8")) | {"over_seeds": {"seeds": list(seeds), **summary}}
        write_report(joined, path)


def over_seeds(values: Sequence[float], *, within: Range = (-math.inf, math.inf)) -> Figures:
    """Mean over seeds and Student's 95 % interval with n − 1 degrees of freedom, cut to the figure's range `within`."""
    return asdict(student_interval(values, within=within))


def paired(first: Floats, second: Floats, stimuli: Integers) -> Figures:
    """Two arms on the same segments: both means and their difference, 95 % intervals by bootstrap over stimuli.

    first, second: the figure of each segment, [N]; stimuli: the stimulus of each segment, [N].
    """
    difference = bootstrap_difference(first, stimuli, second, stimuli)
    arms = (bootstrap_mean(values.astype(np.float64), stimuli) for values in (first, second))
    keys = ("value", "low", "high")
    return {
        name: {key: getattr(estimate, key) for key in keys}
        for name, estimate in zip(("first", "second", "difference"), (*arms, difference), strict=True)
    }


def percent(entry: Figures, *, centre: str = "mean", digits: int = 1) -> str:
    """An entry of shares in per cent: "12.3 [10.0, 14.6]"."""
    value = f"{100 * entry[centre]:.{digits}f}"
    if entry["low"] is None:
        return value
    return f"{value} [{100 * entry['low']:.{digits}f}, {100 * entry['high']:.{digits}f}]"
