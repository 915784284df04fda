"""Memory and time of cutting EDF recordings into a data set, by the size and number of files and by what is done.

Each case is `neuroimagen data ingest mne` in a process of its own, on generated EDF+ files of `--channels` channels at
512 Hz: *none* cuts segments as recorded, *band* filters 1 to 40 Hz, *resampled* filters, resamples to 128 Hz and takes
the average reference. A segment of 0.8 s is cut every ten seconds. The peak is the process's largest resident size as
the system counts it, Python and its libraries included; the first line of the table, files of ten segments, is what
those take alone.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neuroimagen.benchmarks.machine import describe
from neuroimagen.data_shards.common.errors import UserError

HELP = "memory and time of cutting EDF recordings into a data set, filtered or not"
EPILOG = """examples:
  neuroimagen bench recordings
  neuroimagen bench recordings --megabytes 250 1000 --files 1 10 --json benchmarks/results/recordings-cpu.json

The files are written to TMPDIR, the largest case at a time (ten files of 1,000 MB are 10 GB), and so is the data set.
"""
SFREQ = 512
SEGMENT_EVERY_S = 10
STEPS: dict[str, tuple[str, ...]] = {
    "none": (),
    "band": ("--band", "1:40"),
    "resampled": ("--band", "1:40", "--resample", "128", "--reference", "average"),
}
"""What is done to a recording → options of `data ingest mne`."""
NUM_IMAGES = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--megabytes", type=int, nargs="+", default=[25], metavar="MB", help="size of a recording (default: 25)"
    )
    parser.add_argument("--files", type=int, nargs="+", default=[1, 4], metavar="N", help="recordings (default: 1 4)")
    parser.add_argument("--channels", type=int, default=32, metavar="C", help="channels (default: 32)")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS), help="what is done (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")


def run(args: argparse.Namespace) -> None:
    configuration = {
        **describe(torch.device("cpu"), ("neuroimagen", "mne", "numpy", "scipy")),
        **{"channels": args.channels, "sfreq": SFREQ, "segment_every_s": SEGMENT_EVERY_S},
    }
    report: dict[str, Any] = {"configuration": configuration, "cases": []}
    print(json.dumps(configuration))
    print(f"{'MB a file':>10}{'files':>7}  {'steps':<11}{'segments':>9}{'peak MB':>9}{'CPU s':>8}{'seconds':>9}")
    for megabytes in (0, *args.megabytes):
        for num_files in (1,) if not megabytes else args.files:
            with tempfile.TemporaryDirectory() as folder:
                seconds = max(10 * SEGMENT_EVERY_S, megabytes * 1_000_000 // (2 * SFREQ * args.channels))
                command = write_recordings(Path(folder), num_files, args.channels, seconds)
                for steps in ("none",) if not megabytes else args.steps:
                    case = {"megabytes": megabytes, "files": num_files, "steps": steps}
                    case |= measure([*command, *STEPS[steps]], Path(folder) / f"data-{steps}")
                    report["cases"].append(case)
                    print(
                        f"{megabytes:>10}{num_files:>7}  {steps:<11}{case['segments']:>9}{case['peak_mb']:>9.0f}"
                        f"{case['cpu_s']:>8.1f}{case['seconds']:>9.1f}",
                        flush=True,
                    )
                    if args.json:
                        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def write_recordings(folder: Path, num_files: int, num_channels: int, seconds: int) -> list[str]:
    """Recordings, their images and a table of trials; returns the words of `data ingest` that read them."""
    from PIL import Image

    paths = [folder / f"s{number}.edf" for number in range(num_files)]
    for path in paths:
        write_edf(path, num_channels=num_channels, sfreq=SFREQ, seconds=seconds)
    (folder / "images").mkdir()
    for number in range(NUM_IMAGES):
        Image.new("L", (8, 8), 10 * number).save(folder / "images" / f"{number}.png")
    onsets = range(1, seconds - 1, SEGMENT_EVERY_S)
    rows = [
        f"{path.name},{onset},{number % NUM_IMAGES}.png,c{number % 2}"
        for path in paths
        for number, onset in enumerate(onsets)
    ]
    (folder / "trials.csv").write_text("\n".join(["recording,onset,image,class", *rows, ""]), encoding="utf-8")
    return [
        *("mne", "--recordings", *map(str, paths), "--trials", str(folder / "trials.csv")),
        *("--images", str(folder / "images"), "--tmax", "0.8"),
    ]


def write_edf(
    path: Path, *, num_channels: int, sfreq: int, seconds: int, event: str | None = None, every_s: int = 1
) -> None:
    """An EDF+ file of noise of 20 µV, second by second, and an event every `every_s` seconds if it has a name."""
    labels = [f"EEG {number:03d}" for number in range(num_channels)]
    notes_size = 32  # two-byte samples of a record's annotations
    count = num_channels + 1
    columns: list[tuple[Sequence[object], int]] = [
        ([*labels, "EDF Annotations"], 16),
        ([""] * count, 80),
        (["uV"] * num_channels + [""], 8),
        ([-1000] * num_channels + [-1], 8),
        ([1000] * num_channels + [1], 8),
        ([-32768] * count, 8),
        ([32767] * count, 8),
        ([""] * count, 80),
        ([sfreq] * num_channels + [notes_size], 8),
        ([""] * count, 32),
    ]
    head: list[tuple[object, int]] = [
        *((0, 8), ("X X X X", 80), ("Startdate 01-JAN-2020 X X X", 80), ("01.01.20", 8), ("00.00.00", 8)),
        *((256 * (count + 1), 8), ("EDF+C", 44), (seconds, 8), (1, 8), (count, 4)),
        *((value, width) for values, width in columns for value in values),
    ]
    rng = np.random.default_rng(0)
    # Sixteen different seconds in turn: making all of the noise would take longer than what is measured.
    noise = [(rng.standard_normal(num_channels * sfreq) * 655).astype("<i2").tobytes() for _ in range(16)]
    with path.open("wb") as file:
        file.write(b"".join(str(value).encode().ljust(width)[:width] for value, width in head))
        for second in range(seconds):
            note = f"+{second}\x14\x14\0"
            if event is not None and second % every_s == 0:
                note += f"+{second}.25\x14{event}\x14\0"
            file.write(noise[second % 16] + note.encode().ljust(2 * notes_size, b"\0"))


def measure(words: Sequence[str], out: Path) -> dict[str, float | int]:
    """`data ingest` in a process of its own: its peak memory, its processor time, how long it took."""
    from neuroimagen.data_shards.dataset.dataset import Dataset

    command = [sys.executable, "-m", "neuroimagen.launch.cli", "data", "ingest", *words, "--out", str(out)]
    began = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise UserError(f"data ingest failed: {said.read().decode(errors='replace')[-2000:]}")
    return {
        "segments": len(Dataset.open(out)),
        "peak_mb": round(usage.ru_maxrss * 1024 / 1e6, 1),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
        "seconds": round(time.perf_counter() - began, 2),
    }
