"""A large table of trials: how long it takes to read it, and to find each of its rows in the recordings.

The table has a row for each trial of `--recordings` generated EDF+ recordings of one channel, with an event each. Each
join is measured in a process of its own, whose largest resident size is given beyond what it had before: *read* is the
table alone; *planned* is all that `data ingest mne` does before it writes the first segment: the table, the headers,
the events, the join, classes, splits and subjects.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neuroimagen.benchmarks.machine import describe
from neuroimagen.benchmarks.recordings import NUM_IMAGES, write_edf

HELP = "a table of a million trials: reading it and joining it to recordings, by onset and by order"
EPILOG = """examples:
  neuroimagen bench trials
  neuroimagen bench trials --rows 1000000 --json benchmarks/results/trials-cpu.json
"""
JOINS = ("onset", "order")
SFREQ = 8
"""Samples per second of the recordings: their headers and events are read, not their signal."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=50_000, metavar="N", help="trials (default: 50000)")
    parser.add_argument("--recordings", type=int, default=10, metavar="N", help="recordings (default: 10)")
    parser.add_argument("--joins", nargs="+", choices=JOINS, default=list(JOINS), help="ways to join (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")


def run(args: argparse.Namespace) -> None:
    configuration = {
        **describe(torch.device("cpu"), ("neuroimagen", "mne", "numpy", "pyarrow")),
        **{"rows": args.rows, "recordings": args.recordings},
    }
    report: dict[str, Any] = {"configuration": configuration, "joins": {}}
    print(json.dumps(configuration))
    print(f"{'join':<7}{'read s':>8}{'planned s':>11}{'planned CPU s':>15}{'trials':>9}{'peak MB':>9}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_study(folder, num_rows=args.rows, num_recordings=args.recordings)
        for join in args.joins:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                figures = report["joins"][join] = pool.apply(measure, (folder, join))
            print(
                f"{join:<7}{figures['read_s']:>8.2f}{figures['planned_s']:>11.2f}{figures['planned_cpu_s']:>15.2f}"
                f"{figures['trials']:>9}{figures['peak_mb']:>9.0f}",
                flush=True,
            )
            if args.json:
                args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def write_study(folder: Path, *, num_rows: int, num_recordings: int) -> None:
    """Recordings with an event every other second, images, and a table of trials for each way to join them."""
    from PIL import Image

    (folder / "images").mkdir()
    for number in range(NUM_IMAGES):
        Image.new("L", (8, 8), 10 * number).save(folder / "images" / f"{number}.png")
    tables = {join: [f"recording,{'onset' if join == 'onset' else 'event'},image,class"] for join in JOINS}
    for number, rows in enumerate(np.array_split(np.arange(num_rows), num_recordings)):
        name = f"sub-{number}.edf"
        write_edf(folder / name, num_channels=1, sfreq=SFREQ, seconds=2 * len(rows), event="shown", every_s=2)
        shown = [f"{row % NUM_IMAGES}.png,c{row % 2}" for row in range(len(rows))]
        tables["order"] += [f"{name},shown,{text}" for text in shown]
        tables["onset"] += [f"{name},{2 * row}.25,{text}" for row, text in enumerate(shown)]
    for join, lines in tables.items():
        (folder / f"{join}.csv").write_text("\n".join([*lines, ""]), encoding="utf-8")


def measure(folder: Path, join: str) -> dict[str, float | int]:
    """Read the table, then plan all segments as `data ingest mne` does."""
    from neuroimagen.data_shards.sources.mne import MneOptions, MneSource
    from neuroimagen.data_shards.sources.recordings.events.trials import OPTIONAL
    from neuroimagen.data_shards.sources.recordings.tables.stimulus_table import read_stimulus_table

    trials = folder / f"{join}.csv"
    began = time.perf_counter()
    read_stimulus_table(trials, ("image", "class"), OPTIONAL)
    read_s = time.perf_counter() - began
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, cpu = time.perf_counter(), time.process_time()
    options = MneOptions(
        recordings=tuple(sorted(folder.glob("*.edf"))), trials=trials, images=folder / "images", join=join, tmax=0.5
    )
    source = MneSource(options)
    return {
        "read_s": round(read_s, 3),
        "planned_s": round(time.perf_counter() - began, 2),
        "planned_cpu_s": round(time.process_time() - cpu, 2),
        "trials": source.num_segments(),
        "peak_mb": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 1e6, 1),
    }
