"""MosaicML streaming's side of `bench stream --mosaicml PYTHON`: a program for the interpreter of another environment.

It imports nothing of neuroimagen, which is not installed there. Started as

    PYTHON stream_mosaicml.py EEG.npy FOLDER BATCH_SIZE

it writes the EEG, float16 [segments, C, T], into FOLDER as MDS shards, prints {"versions": …}, and then answers every
line on its standard input with an epoch, of which it prints {"samples": …, "seconds": …}: shuffled, batches of float32
[B, C, T], one process without workers, one PyTorch thread. Each answer is one line of JSON.
"""

import importlib.metadata
import importlib.util
import json
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

_SHARD_BYTES = 64 << 20


def main() -> None:
    source, folder, batch_size = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    base = _streaming_base()
    eeg = np.load(source, mmap_mode="r", allow_pickle=False)
    kind = f"ndarray:float16:{','.join(map(str, eeg.shape[1:]))}"
    with base.MDSWriter(out=str(folder), columns={"eeg": kind}, size_limit=_SHARD_BYTES) as writer:
        for segment in eeg:
            writer.write({"eeg": np.ascontiguousarray(segment)})
    # batch_size tells how it deals samples out; the DataLoader makes the batches.
    dataset = base.StreamingDataset(local=str(folder), shuffle=True, shuffle_seed=0, batch_size=batch_size)
    loader = torch.utils.data.DataLoader(dataset, batch_size=batch_size, num_workers=0)
    names = ("mosaicml-streaming", "torch", "numpy")
    _answer({"versions": {name: importlib.metadata.version(name) for name in names}})
    for _ in sys.stdin:
        started = time.perf_counter()
        samples = sum(len(batch) for batch in _epoch(loader))
        _answer({"samples": samples, "seconds": time.perf_counter() - started})


def _streaming_base() -> Any:
    """`streaming.base`, without the package's own start: that imports its picture data sets, which want torchvision."""
    spec = importlib.util.find_spec("streaming")
    if spec is None or spec.submodule_search_locations is None:
        sys.exit("mosaicml-streaming is not installed here")
    package = types.ModuleType("streaming")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["streaming"] = package
    return importlib.import_module("streaming.base")


def _epoch(loader: torch.utils.data.DataLoader) -> Iterator[torch.Tensor]:
    for batch in loader:
        yield batch["eeg"].float()


def _answer(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
