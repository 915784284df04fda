"""The program that `bench stream` runs in a streaming library's own environment.

It imports nothing of neuroimagen, which is not installed there. Started as

    PYTHON stream_peer.py {mosaicml,litdata} EEG.npy FOLDER BATCH_SIZE

it writes the EEG, float16 [segments, C, T], into FOLDER in the library's format and prints {"versions": …}. For every
line on its standard input it then runs one epoch and prints {"samples": …, "seconds": …}: shuffled batches of float32
[B, C, T], one process without workers, one PyTorch thread. Each answer is one line of JSON.
"""

import importlib.metadata
import importlib.util
import json
import os
import sys
import time
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

_SHARD_BYTES = 64 << 20
Batches = Iterable[dict[str, torch.Tensor]]
"""Yields one epoch each time it is iterated; "eeg" is float16 [B, C, T]."""


def main() -> None:
    name, source, folder, batch_size = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    library = LIBRARIES[name]
    if importlib.util.find_spec(library.module) is None:
        sys.exit(f"{library.distribution} is not installed here")
    # What libraries print must not be mixed with the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def answer(value: dict[str, Any]) -> None:
        print(json.dumps(value), file=answers, flush=True)

    torch.set_num_threads(1)
    batches = library.load(source, folder, batch_size)
    versions = (library.distribution, "torch", "numpy")
    answer({"versions": {package: importlib.metadata.version(package) for package in versions}})
    for _ in sys.stdin:
        started = time.perf_counter()
        samples = sum(len(batch["eeg"].float()) for batch in batches)
        answer({"samples": samples, "seconds": time.perf_counter() - started})


def mosaicml(source: Path, folder: Path, batch_size: int) -> Batches:
    base = _streaming_base()
    eeg = np.load(source, mmap_mode="r", allow_pickle=False)
    kind = f"ndarray:float16:{','.join(map(str, eeg.shape[1:]))}"
    with base.MDSWriter(out=str(folder), columns={"eeg": kind}, size_limit=_SHARD_BYTES) as writer:
        for segment in eeg:
            writer.write({"eeg": np.ascontiguousarray(segment)})
    # batch_size affects how it distributes samples; the DataLoader makes the batches.
    dataset = base.StreamingDataset(local=str(folder), shuffle=True, shuffle_seed=0, batch_size=batch_size)
    return torch.utils.data.DataLoader(dataset, batch_size=batch_size, num_workers=0)


def _streaming_base() -> Any:
    """`streaming.base`, without the package's __init__, which imports its image data sets and so torchvision."""
    spec = importlib.util.find_spec("streaming")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    package = types.ModuleType("streaming")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["streaming"] = package
    return importlib.import_module("streaming.base")


def litdata(source: Path, folder: Path, batch_size: int) -> Batches:
    import litdata as library

    library.optimize(
        fn=_LitSample(source),
        inputs=list(range(len(np.load(source, mmap_mode="r", allow_pickle=False)))),
        output_dir=str(folder),
        chunk_bytes=_SHARD_BYTES,
        num_workers=1,
    )
    dataset = library.StreamingDataset(str(folder), shuffle=True)
    batches: Batches = library.StreamingDataLoader(dataset, batch_size=batch_size, num_workers=0)
    return batches


class _LitSample:
    """Row → the sample that litdata stores; a class, because it must pickle."""

    def __init__(self, source: Path) -> None:
        self._source = source

    def __call__(self, row: int) -> dict[str, np.ndarray]:
        return {"eeg": np.load(self._source, mmap_mode="r", allow_pickle=False)[row].copy()}


class Library(NamedTuple):
    """A library: its module, its distribution, and how it loads the EEG."""

    module: str
    distribution: str
    load: Callable[[Path, Path, int], Batches]
    """EEG.npy, folder to write to, batch size."""


LIBRARIES = {
    "litdata": Library("litdata", "litdata", litdata),
    "mosaicml": Library("streaming", "mosaicml-streaming", mosaicml),
}

if __name__ == "__main__":
    main()
