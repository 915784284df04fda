"""A large data set: time to the first batch, memory over an epoch, time to resume.

Run on a data set of many segments (`neuroimagen data simulate --format shards --channels 8 --images-per-class 10469
--subjects 8` makes a million). A separate process streams one epoch of a ShufflePlan through the reader and records its
resident size. The resident size is given as two figures: *anonymous*, what the process has allocated, and *file*, pages
of the memory-mapped shards, which are the system's page cache and are dropped when memory is needed elsewhere.

The start at 0 % and at 90 % is measured in new processes that take turns: from the call for the epoch to the first
batch, and the rate over the steps after it. Planning is measured for generated indices of growing size, and an index of
`--index-rows` rows is written, opened and deleted.
"""

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from neuroimagen.benchmarks.machine import describe
from neuroimagen.data_shards.common.errors import UsageError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.format.schema import (
    INDEX_SCHEMA,
    STIMULI_SCHEMA,
    ClassInfo,
    DatasetMetadata,
    npy_header,
)
from neuroimagen.data_shards.format.tables import ROWS_PER_GROUP, file_sha256
from neuroimagen.data_shards.loading.plan import BalancedPlan, BlockShufflePlan, Plan, ShufflePlan
from neuroimagen.data_shards.loading.reader import Reader

HELP = "a large data set: memory over an epoch, first batch, resume at 90 %, planning, opening the index"
EPILOG = """examples:
  neuroimagen bench million --data data/million --json million.json --plot million.png
  neuroimagen bench million --parts planning index
"""
BATCH_SIZE = 128
_PARTS = ("epoch", "starts", "planning", "index")
_RESUME_STEPS = 300
_MIB = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, metavar="DIR", help="the data set; the parts epoch and starts need one")
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=_PARTS, help="what to measure (default: all)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="starts at 0 %% and at 90 %% (default: 3)")
    parser.add_argument("--index-rows", type=int, default=10_000_000, metavar="N", help="rows of the index")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="plot the resident size to this file")


def run(args: argparse.Namespace) -> None:
    if args.data is None and {"epoch", "starts"} & set(args.parts):
        raise UsageError("the parts epoch and starts need a data set: give --data, or --parts planning index.")
    results: dict[str, Any] = json.loads(args.json.read_text()) if args.json and args.json.exists() else {}
    measures: dict[str, Callable[[], Any]] = {
        "epoch": lambda: _apart(_stream_epoch, args.data),
        "starts": lambda: _starts(args.data, args.repeats),
        "planning": _planning,
        "index": lambda: _open_large_index(args.index_rows),
    }
    for part in args.parts:
        configuration = _configuration(args.data if part in ("epoch", "starts") else None)
        results[part] = {"configuration": configuration, **measures[part]()}
        _print(part, results[part])
        if args.json:
            args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if args.plot and "epoch" in results:
        _plot(results["epoch"], args.plot)


def _print(part: str, result: dict[str, Any]) -> None:
    print(f"{part}: {json.dumps(result['configuration'])}")
    for name, value in result.items():
        if name != "configuration" and not isinstance(value, list):
            print(f"  {name}: {json.dumps(value)}")
    if part == "epoch":
        anonymous = result["anonymous_mib"]
        print(
            f"  anonymous memory: {anonymous[len(anonymous) // 10]:.0f} MiB after a tenth, {max(anonymous):.0f} at most"
        )


def _apart(function: Any, *arguments: Any) -> Any:
    """Call in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def _memory_mib() -> tuple[float, float]:
    """Resident size of this process: anonymous and file pages, MiB."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return tuple(int(fields[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile"))  # type: ignore[return-value]


def _stream_epoch(path: Path) -> dict[str, Any]:
    torch.set_num_threads(1)
    dataset = Dataset.open(path)
    plan = ShufflePlan(np.arange(len(dataset)), 0, BATCH_SIZE)
    reader = Reader(dataset, plan)
    every = max(1, plan.steps_per_epoch // 200)
    count, anonymous, file = 0, [], []
    seen = np.zeros(len(dataset), dtype=bool)
    started = time.perf_counter()
    for step, batch in enumerate(reader.epoch(0)):
        count += len(batch)
        seen[batch.rows.numpy()] = True
        if step % every == 0:
            memory = _memory_mib()
            anonymous.append(memory[0])
            file.append(memory[1])
    seconds = time.perf_counter() - started
    assert seen.all()
    return {
        "samples": count,
        "samples_per_second": count / seconds,
        "waited_s": reader.wait_seconds,
        "every_steps": every,
        "anonymous_mib": anonymous,
        "file_mib": file,
    }


def _starts(path: Path, repeats: int) -> dict[str, Any]:
    """Medians of the starts at 0 % and at 90 %, each in a new process; they take turns."""
    starts: dict[str, list[dict[str, float]]] = {"0 %": [], "90 %": []}
    for _ in range(repeats):
        for name, share in (("0 %", 0.0), ("90 %", 0.9)):
            starts[name].append(_apart(_start_at, path, share))
    return {
        name: {key: statistics.median(figures[key] for figures in each) for key in each[0]}
        for name, each in starts.items()
    }


def _start_at(path: Path, share: float) -> dict[str, float]:
    torch.set_num_threads(1)
    started, cpu = time.perf_counter(), time.process_time()
    dataset = Dataset.open(path)
    opened = time.perf_counter()
    plan = ShufflePlan(np.arange(len(dataset)), 0, BATCH_SIZE)
    reader = Reader(dataset, plan)
    batches = reader.epoch(0, start_step=int(share * plan.steps_per_epoch))
    next(batches)
    first, cpu = time.perf_counter(), time.process_time() - cpu
    count = sum(len(next(batches)) for _ in range(min(_RESUME_STEPS, plan.steps_per_epoch // 20)))
    rate = count / (time.perf_counter() - first)
    batches.close()  # type: ignore[attr-defined]
    return {"open_s": opened - started, "first_batch_s": first - opened, "cpu_s": cpu, "samples_per_second": rate}


def _planning() -> dict[str, Any]:
    """Microseconds of CPU time per step, by number of rows; steps are spread over the epoch without its first."""
    costs: dict[str, dict[str, float]] = {}
    for num_rows in (10_000, 100_000, 1_000_000, 10_000_000):
        rows = np.arange(num_rows)
        plans: dict[str, Plan] = {
            "ShufflePlan": ShufflePlan(rows, 0, BATCH_SIZE),
            "BalancedPlan": BalancedPlan(rows, rows % 40, 32, 4, 0),
            "BlockShufflePlan": BlockShufflePlan(rows, rows // 500, 0, BATCH_SIZE),
        }
        for name, plan in plans.items():
            plan.batch(0, 0)
            steps = np.linspace(0, plan.steps_per_epoch - 1, 60).astype(int).tolist()
            started = time.thread_time()
            for step in steps:
                plan.batch(0, step)
            costs.setdefault(name, {})[f"{num_rows:,}"] = (time.thread_time() - started) / len(steps) * 1e6
    return costs


def _open_large_index(num_rows: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as scratch:
        _write_index(Path(scratch), num_rows)
        size = (Path(scratch) / "index.parquet").stat().st_size
        return {"rows": num_rows, "file_mib": size / _MIB, **_apart(_open_index, Path(scratch))}


def _open_index(folder: Path) -> dict[str, float]:
    before = sum(_memory_mib())
    started, cpu = time.perf_counter(), time.process_time()
    dataset = Dataset.open(folder)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak = int(fields["VmHWM"].split()[0]) / 1024
    columns = sum(value.nbytes for value in vars(dataset.index).values() if isinstance(value, np.ndarray)) / _MIB
    return {"open_s": seconds, "open_cpu_s": cpu, "columns_mib": columns, "peak_mib_above_start": peak - before}


def _write_index(folder: Path, num_rows: int) -> None:
    """An index without shards: segments of 128 × 440, 1,000 stimuli of 40 classes, for shards of 64 MiB."""
    header = len(npy_header(128, 440))
    sample, per_shard = 512 + 113_152 + 1024, 585
    num_shards = -(-num_rows // per_shard)
    rng = np.random.default_rng(0)
    with pq.ParquetWriter(folder / "index.parquet", INDEX_SCHEMA, compression="zstd") as writer:
        for first in range(0, num_rows, ROWS_PER_GROUP):
            row = np.arange(first, min(first + ROWS_PER_GROUP, num_rows))
            stimulus = rng.integers(1000, size=len(row))
            columns = {
                "key": pc.utf8_lpad(pa.array(row).cast(pa.string()), 9, "0"),
                "shard": row // per_shard,
                "offset": row % per_shard * sample + 512,
                "size": np.full(len(row), header + 2 * 128 * 440),
                "crc32": rng.integers(1 << 32, size=len(row), dtype=np.uint32),
                "scale": np.exp2(rng.integers(-14, -10, size=len(row))),
                "label": stimulus % 40,
                "stimulus": stimulus,
                "subject": 1 + row % 6,
                "block": row // 50 % 40,
                "order": row % 50,
                "session": (1 + row // 2000 % 4).astype("U2"),
                "recording": np.char.add("sub-01_ses-", (row // 2000 % 4).astype("U2")),
                "onset_s": row % 2000 * 0.5,
                "split": np.array(["train", "val", "test"])[rng.choice(3, p=[0.8, 0.1, 0.1], size=len(row))],
            }
            arrays = [pa.array(columns[field.name]).cast(field.type) for field in INDEX_SCHEMA]
            writer.write_table(pa.table(arrays, schema=INDEX_SCHEMA))
    stimuli = {
        "key": [f"s{number}" for number in range(1000)],
        "shard": [0] * 1000,
        "offset": [512 + 1024 * number for number in range(1000)],
        "size": [100] * 1000,
        "crc32": [0] * 1000,
        "extension": ["jpg"] * 1000,
        "label": [number % 40 for number in range(1000)],
        "caption": ["an image of something"] * 1000,
        "detailed_caption": [None] * 1000,
    }
    pq.write_table(pa.table(stimuli, schema=STIMULI_SCHEMA), folder / "stimuli.parquet")
    metadata = DatasetMetadata(
        name="index only",
        n_channels=128,
        n_samples=440,
        sfreq=1000.0,
        classes=tuple(ClassInfo(name=f"class {label}") for label in range(40)),
        subjects=tuple(range(1, 7)),
        num_segments=num_rows,
        num_stimuli=1000,
        segment_shards=(per_shard * sample + 1024,) * num_shards,
        stimulus_shards=(2 << 20,),
        tables={name: file_sha256(folder / name) for name in ("index.parquet", "stimuli.parquet")},
    )
    (folder / "dataset.json").write_text(metadata.to_json(), encoding="utf-8")


def _plot(epoch: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    share = np.linspace(0, 100, len(epoch["anonymous_mib"]))
    figure, axes = pyplot.subplots(figsize=(7, 3.5), layout="constrained")
    axes.stackplot(
        share,
        epoch["anonymous_mib"],
        epoch["file_mib"],
        labels=("anonymous: allocated by the process", "file: mapped shards, the system's page cache"),
        colors=("#30638e", "#c9d6df"),
    )
    axes.set(xlabel="% of the epoch", ylabel="resident size, MiB", xlim=(0, 100))
    axes.set_title(f"One shuffled epoch of {epoch['samples']:,} segments")
    axes.legend(loc="upper left")
    figure.savefig(path, dpi=120)


def _configuration(path: Path | None) -> dict[str, Any]:
    machine = {
        **describe(torch.device("cpu"), ("neuroimagen", "torch", "numpy", "pyarrow")),
        "batch_size": BATCH_SIZE,
    }
    if path is None:
        return machine
    metadata = Dataset.open(path).metadata
    return {
        **machine,
        "segments": metadata.num_segments,
        "shape": [metadata.n_channels, metadata.n_samples],
        "shards": len(metadata.segment_shards),
        "gigabytes": sum(metadata.segment_shards) / 1e9,
    }
