"""Segments per second of the reader beside other loaders, on the same data in the same run.

Data: segments of 128 × 440 float16, as `data ingest` stores them; every loader yields shuffled batches of 128 as one
float32 tensor [B, C, T], in one process, without worker processes. Ours checks a CRC-32 of every segment; the others
check nothing. Ours decodes in two threads, its default, and in a second measurement in one, which is one core, like the
others, because the consumer's thread only waits. "As stored" yields what is sent to a GPU: float16 with a scale per
segment, not decoded. `memcpy + CRC` is the limit: the stored bytes of as many random segments copied and checked on one
core, without decoding. The in-RAM DataLoader has all EEG as one float32 tensor, decoded beforehand. Each figure is the
median of the repetitions, with the smallest and the largest; the loaders take turns.

Two libraries cannot be installed in the same environment: MosaicML streaming (0.13) needs NumPy below 2.2 and
Transformers below 5, litdata (0.2) needs torchvision, which breaks Transformers where it does not match PyTorch.
`--mosaicml` and `--litdata` name the interpreters of separate environments, whose processes take turns with the others
and measure their own time (stream_peer.py).
"""

import argparse
import contextlib
import json
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neuroimagen.benchmarks.machine import describe
from neuroimagen.data_shards.common.checksum import crc32
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.format.schema import ClassInfo, DatasetMetadata, SegmentRecord, StimulusRecord
from neuroimagen.data_shards.loading.plan import ShufflePlan
from neuroimagen.data_shards.loading.reader import Reader
from neuroimagen.data_shards.writing.writer import DatasetWriter

HELP = "segments per second of the reader beside webdataset, an in-RAM DataLoader, litdata and MosaicML streaming"
EPILOG = """examples:
  neuroimagen bench stream
  neuroimagen bench stream --data data/cvpr40 --repeats 5
  neuroimagen bench stream --mosaicml mosaicml-env/bin/python --litdata litdata-env/bin/python

The separate environments need the same torch as this one (the CPU build if this is one):
  python3 -m venv mosaicml-env
  mosaicml-env/bin/pip install torch==2.13.0 "numpy<2.2" "transformers<5" "xxhash<4" "zstd<2" "python-snappy<1" \\
    Brotli "catalogue<3" tqdm pillow
  mosaicml-env/bin/pip install --no-deps mosaicml-streaming==0.13.0
  python3 -m venv litdata-env
  litdata-env/bin/pip install torch==2.13.0 numpy boto3 filelock lightning-utilities obstore requests tifffile
  litdata-env/bin/pip install --no-deps litdata==0.2.76
"""
BATCH_SIZE = 128
PEERS = {"mosaicml": "MosaicML streaming", "litdata": "litdata"}
"""Libraries that are measured in separate environments."""
Loader = Callable[[], Iterator[torch.Tensor]]
"""Yields the batches of one epoch, float32 [B, C, T]."""
TimedEpoch = Callable[[], tuple[int, float]]
"""Runs one epoch; returns (number of segments, seconds)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, metavar="DIR", help="a data set (default: a temporary one of noise)")
    parser.add_argument(
        "--segments", type=int, default=6400, metavar="N", help="segments of the temporary one (default: 6400)"
    )
    parser.add_argument(
        "--repeats", type=int, default=3, metavar="N", help="measured epochs of each loader (default: 3)"
    )
    for library, title in PEERS.items():
        parser.add_argument(
            f"--{library}", type=Path, metavar="PYTHON", help=f"interpreter of an environment with {title} (below)"
        )
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="PyTorch threads (default: 1)")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also append the figures to this file, one line per run"
    )


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        dataset = Dataset.open(args.data) if args.data else noise_dataset(scratch / "data", args.segments)
        loaders = {
            "neuroimagen": _ours(dataset, None),
            "neuroimagen, 1 decode thread": _ours(dataset, 1),
            "neuroimagen, as stored": _ours(dataset, None, as_stored=True),
            "DataLoader, tensors in RAM": _in_ram(dataset),
            "webdataset, shuffled": _webdataset(dataset),
            "memcpy + CRC, one core": _memcpy(dataset),
        }
        epochs = {name: _timed(loader) for name, loader in loaders.items()}
        elsewhere = {}
        interpreters = {"mosaicml": args.mosaicml, "litdata": args.litdata}
        if any(interpreters.values()):
            eeg = write_eeg(dataset, scratch / "eeg.npy")
        for library, interpreter in interpreters.items():
            if interpreter:
                peer = stack.enter_context(Peer(library, interpreter, eeg))
                epochs[PEERS[library]] = peer.epoch
                elsewhere[f"{library}_environment"] = peer.versions
        figures = measure(epochs, repeats=args.repeats)
    configuration = {**_configuration(dataset), **elsewhere}
    _print(configuration, figures)
    if args.json:
        record = {"configuration": configuration, "samples_per_second": figures}
        with args.json.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def noise_dataset(folder: Path, num_segments: int, *, n_channels: int = 128, n_samples: int = 440) -> Dataset:
    """A data set of segments of white noise, all of one class."""
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


def measure(epochs: dict[str, TimedEpoch], *, repeats: int) -> dict[str, list[float]]:
    """Segments per second of each loader in `repeats` epochs, after one to warm up; the loaders take turns."""
    figures: dict[str, list[float]] = {name: [] for name in epochs}
    for repeat in range(repeats + 1):
        for name, epoch in epochs.items():
            count, seconds = epoch()
            if repeat:
                figures[name].append(count / seconds)
    return figures


def _timed(loader: Loader) -> TimedEpoch:
    def epoch() -> tuple[int, float]:
        started = time.perf_counter()
        count = sum(len(batch) for batch in loader())
        return count, time.perf_counter() - started

    return epoch


class Peer:
    """stream_peer.py in the interpreter of another environment, which runs an epoch on each request."""

    def __init__(self, library: str, interpreter: Path, eeg: Path) -> None:
        """Start it and wait until the library has written the EEG in its format. Raises UserError if that fails."""
        self._library = library
        program = Path(__file__).with_name("stream_peer.py")
        command = [str(interpreter), str(program), library, str(eeg), str(eeg.with_name(library)), str(BATCH_SIZE)]
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        except OSError as error:
            raise UserError(f"cannot start --{library} {interpreter}: {error.strerror or error}.") from None
        self.versions: dict[str, str] = self._answer()["versions"]

    def epoch(self) -> tuple[int, float]:
        """(number of segments, seconds as that process measured them)."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer = self._answer()
        return answer["samples"], answer["seconds"]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise UserError(
                f"the --{self._library} process ended with code {code}; its messages are above. `neuroimagen bench "
                "stream --help` says how to make its environment."
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()  # ends the process
        self._process.wait()


def write_eeg(dataset: Dataset, path: Path) -> Path:
    """All EEG as stored, float16 [segments, C, T], as a .npy file for other environments."""
    array = np.lib.format.open_memmap(path, "w+", np.float16, (len(dataset), *_shape(dataset)))
    for row in range(len(dataset)):
        array[row] = np.frombuffer(dataset.eeg_bytes(row), dtype=np.float16).reshape(_shape(dataset))
    array.flush()
    return path


def _ours(dataset: Dataset, decode_threads: int | None, *, as_stored: bool = False) -> Loader:
    epochs = iter(range(1 << 30))
    plan = ShufflePlan(np.arange(len(dataset)), 0, BATCH_SIZE)
    reader = Reader(dataset, plan, decode_threads=decode_threads, as_stored=as_stored)

    def epoch() -> Iterator[torch.Tensor]:
        for batch in reader.epoch(next(epochs)):
            yield batch.eeg

    return epoch


def _in_ram(dataset: Dataset) -> Loader:
    """A DataLoader over all EEG as one float32 tensor, with the default collate."""
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
    """webdataset's loader: shuffled shards, a shuffle buffer of 1000 samples, the library's npy decoder."""
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


def _memcpy(dataset: Dataset) -> Loader:
    """The bytes of random segments, checked and copied into a batch buffer without decoding."""
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


def _configuration(dataset: Dataset) -> dict[str, Any]:
    return {
        **describe(torch.device("cpu"), ("neuroimagen", "torch", "numpy", "webdataset", "isal")),
        "segments": len(dataset),
        "shape": list(_shape(dataset)),
        "batch_size": BATCH_SIZE,
        "decode_threads": Reader(dataset, ShufflePlan(np.arange(len(dataset)), 0, BATCH_SIZE)).decode_threads,
    }


def _print(configuration: dict[str, Any], figures: dict[str, list[float]]) -> None:
    print(json.dumps(configuration))
    ours = statistics.median(figures["neuroimagen"])
    print(f"{'loader':<30}{'segments/s':>12}{'min':>10}{'max':>10}{'ours ÷ it':>12}")
    for name, values in figures.items():
        median = statistics.median(values)
        print(f"{name:<30}{median:>12,.0f}{min(values):>10,.0f}{max(values):>10,.0f}{ours / median:>12.2f}")
