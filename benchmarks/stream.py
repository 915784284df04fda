"""Samples a second of the reader beside other loaders, on the same data in the same run.

Data: segments of 128 × 440 float16, as `data ingest` stores them; every loader delivers shuffled batches of 128 as one
float32 tensor [B, C, T], in one process, without worker processes. Ours checks a CRC-32 on every sample; the others
check nothing. Ours reads and decodes in a thread of its own, which beside the consumer's waiting thread is one core as
the others have it, and once more in two. `memcpy + CRC` is the limit: the stored bytes of as many random samples copied
and checked on one core, nothing decoded. The in-RAM DataLoader has all EEG as one float32 tensor, decoded beforehand.
Each figure is the median of the repetitions, with the smallest and the largest; the loaders take turns.

litdata takes part where it is installed. MosaicML streaming (0.13) does not: it asks for NumPy below 2.2 and
Transformers below 5, so it cannot be installed beside us.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neuroimagen.data_shards.checksum import crc32
from neuroimagen.data_shards.dataset import Dataset
from neuroimagen.data_shards.fetch import Reader
from neuroimagen.data_shards.plan import ShufflePlan
from neuroimagen.data_shards.schema import ClassInfo, DatasetMetadata, SegmentRecord, StimulusRecord
from neuroimagen.data_shards.writer import DatasetWriter

HELP = "samples a second of the reader beside webdataset, an in-RAM DataLoader and litdata"
EPILOG = """examples:
  neuroimagen bench stream
  neuroimagen bench stream --data data/cvpr40 --repeats 5
"""
BATCH_SIZE = 128
Loader = Callable[[], Iterator[torch.Tensor]]
"""One epoch: yields float32 [B, C, T]."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, metavar="DIR", help="a data set (default: a temporary one of noise)")
    parser.add_argument("--segments", type=int, default=6400, metavar="N", help="of the temporary one (default: 6400)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="epochs measured of each (default: 3)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="PyTorch threads (default: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also append the figures to this file, a line a run")


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as scratch:
        dataset = Dataset.open(args.data) if args.data else noise_dataset(Path(scratch) / "data", args.segments)
        loaders = {
            "neuroimagen": _ours(dataset, None),
            "neuroimagen, 2 decode threads": _ours(dataset, 2),
            "DataLoader, tensors in RAM": _in_ram(dataset),
            "webdataset, shuffled": _webdataset(dataset),
            **_litdata(dataset, Path(scratch)),
            "memcpy + CRC, one core": _memcpy(dataset),
        }
        figures = measure(loaders, repeats=args.repeats)
    _print(dataset, figures, args.threads)
    if args.json:
        record = {"configuration": _configuration(dataset, args.threads), "samples_per_second": figures}
        with args.json.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def noise_dataset(folder: Path, num_segments: int, *, n_channels: int = 128, n_samples: int = 440) -> Dataset:
    """Segments of white noise of one class."""
    rng = np.random.default_rng(0)
    metadata = DatasetMetadata(
        name="noise", n_channels=n_channels, n_samples=n_samples, sfreq=1000.0, classes=(ClassInfo(name="noise"),)
    )
    with DatasetWriter(folder, metadata) as writer:
        writer.add_stimulus(StimulusRecord(key="s", image=b"\xff\xd8\xff", extension="jpg", label=0, caption="noise"))
        for _ in range(num_segments):
            eeg = rng.standard_normal((n_channels, n_samples), dtype=np.float32)
            writer.add_segment(SegmentRecord(eeg=eeg, stimulus="s", label=0, subject=1, split="train"))
    return Dataset.open(folder)


def measure(loaders: dict[str, Loader], *, repeats: int) -> dict[str, list[float]]:
    """Samples a second of each loader, `repeats` epochs after one that warms up; they take turns."""
    figures: dict[str, list[float]] = {name: [] for name in loaders}
    for repeat in range(repeats + 1):
        for name, loader in loaders.items():
            count = 0
            started = time.perf_counter()
            for batch in loader():
                count += len(batch)
            if repeat:
                figures[name].append(count / (time.perf_counter() - started))
    return figures


def _ours(dataset: Dataset, decode_threads: int | None) -> Loader:
    epochs = iter(range(1 << 30))
    plan = ShufflePlan(np.arange(len(dataset)), 0, BATCH_SIZE)
    reader = Reader(dataset, plan, decode_threads=decode_threads)

    def epoch() -> Iterator[torch.Tensor]:
        for batch in reader.epoch(next(epochs)):
            yield batch.eeg

    return epoch


def _in_ram(dataset: Dataset) -> Loader:
    """All EEG as one float32 tensor, the default collate."""
    eeg = torch.empty(len(dataset), *_shape(dataset))
    for row in range(len(dataset)):
        eeg[row] = torch.from_numpy(dataset.eeg(row))
    tensors = torch.utils.data.TensorDataset(eeg)
    loader = torch.utils.data.DataLoader(tensors, batch_size=BATCH_SIZE, shuffle=True)

    def epoch() -> Iterator[torch.Tensor]:
        for (batch,) in loader:
            yield batch

    return epoch


def _webdataset(dataset: Dataset) -> Loader:
    """The library's own loader: shards shuffled, samples shuffled in a buffer of 1000, its own npy decoder."""
    import webdataset

    shards = [dataset.segments.where(shard) for shard in range(len(dataset.segments))]
    pipeline = (
        webdataset.WebDataset(shards, shardshuffle=len(shards), seed=0)
        .shuffle(1000, rng=random.Random(0))
        .decode(only=["eeg.npy", "json"])
        .map(_scaled)
        .batched(BATCH_SIZE)
    )

    def epoch() -> Iterator[torch.Tensor]:
        for (batch,) in pipeline:
            yield torch.as_tensor(batch)

    return epoch


def _scaled(sample: dict[str, Any]) -> tuple[np.ndarray]:
    return (sample["eeg.npy"].astype(np.float32) * np.float32(sample["json"]["scale"]),)


def _litdata(dataset: Dataset, scratch: Path) -> dict[str, Loader]:
    if importlib.util.find_spec("litdata") is None:
        return {}
    import litdata

    folder = scratch / "litdata"
    litdata.optimize(
        fn=_LitSample(dataset),
        inputs=list(range(len(dataset))),
        output_dir=str(folder),
        chunk_bytes="64MB",
        num_workers=1,
    )
    stream = litdata.StreamingDataset(str(folder), shuffle=True)
    loader = litdata.StreamingDataLoader(stream, batch_size=BATCH_SIZE, num_workers=0)

    def epoch() -> Iterator[torch.Tensor]:
        for batch in loader:
            yield batch["eeg"].float()

    return {"litdata": epoch}


class _LitSample:
    """Row → what litdata stores; a class, because it must pickle."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def __call__(self, row: int) -> dict[str, np.ndarray]:
        return {"eeg": _stored(self._dataset, row)}


def _memcpy(dataset: Dataset) -> Loader:
    """The bytes of random samples, checked and copied into a batch buffer; no decoding."""
    size = int(dataset.index.size[0])
    target = memoryview(bytearray(BATCH_SIZE * size))
    order = np.random.default_rng(0).permutation(len(dataset)).tolist()

    def epoch() -> Iterator[torch.Tensor]:
        for start in range(0, len(order), BATCH_SIZE):
            rows = order[start : start + BATCH_SIZE]
            for position, row in enumerate(rows):
                shard, offset = int(dataset.index.shard[row]), int(dataset.index.offset[row])
                content = dataset.segments.read(shard, offset, size)
                crc32(content)
                target[position * size : (position + 1) * size] = content
            yield torch.empty(len(rows))

    return epoch


def _shape(dataset: Dataset) -> tuple[int, int]:
    return dataset.metadata.n_channels, dataset.metadata.n_samples


def _stored(dataset: Dataset, row: int) -> np.ndarray:
    """float16 [C, T] as stored."""
    return np.frombuffer(dataset.eeg_bytes(row), dtype=np.float16).reshape(_shape(dataset)).copy()


def _configuration(dataset: Dataset, threads: int) -> dict[str, Any]:
    packages = ("neuroimagen", "torch", "numpy", "webdataset", "litdata", "isal")
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "segments": len(dataset),
        "shape": list(_shape(dataset)),
        "batch_size": BATCH_SIZE,
        "decode_threads": Reader(dataset, ShufflePlan(np.arange(len(dataset)), 0, BATCH_SIZE)).decode_threads,
        "load_average": os.getloadavg()[0],
        "threads": threads,
        "versions": versions,
    }


def _print(dataset: Dataset, figures: dict[str, list[float]], threads: int) -> None:
    print(json.dumps(_configuration(dataset, threads)))
    ours = statistics.median(figures["neuroimagen"])
    print(f"{'loader':<30}{'samples/s':>12}{'min':>10}{'max':>10}{'ours ÷ it':>12}")
    for name, values in figures.items():
        median = statistics.median(values)
        print(f"{name:<30}{median:>12,.0f}{min(values):>10,.0f}{max(values):>10,.0f}{ours / median:>12.2f}")
