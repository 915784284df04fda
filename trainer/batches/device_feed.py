"""Batches on the device that trains, copied there while the step before them runs."""

from collections.abc import Iterator
from typing import Protocol

import torch

from neuroimagen.data_shards.loading.reader import Batch, Reader


class Feed(Protocol):
    """Batches of this rank for the training loop, on its device."""

    @property
    def wait_seconds(self) -> float:
        """Time the consumer has waited for batches so far."""
        ...

    def epochs(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Batches of `epoch` from `start_step` on, and then those of the epochs after it without end."""
        ...


class StreamedFeed:
    """A reader's batches."""

    def __init__(self, reader: Reader, device: torch.device) -> None:
        self._reader, self._device = reader, device

    @property
    def wait_seconds(self) -> float:
        return self._reader.wait_seconds

    def epochs(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        return on_device(self._reader.epochs(epoch, start_step), self._device)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with float32 EEG and its tensors on `device`, all but `rows`; unchanged where it is so already."""
    if device.type == "cpu":
        return batch.decoded()
    return batch.map(lambda tensor: tensor.to(device, non_blocking=True)).decoded()


def on_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """`batches` on `device`. On a GPU each is copied and decoded on a stream of its own, one batch ahead.

    The copy then runs beside the step on the batch before it, provided that the batches are page-locked. The device
    holds one batch more than without it.
    """
    if device.type == "cpu":
        yield from (to_device(batch, device) for batch in batches)
        return
    stream = torch.cuda.Stream(device)
    ahead: Batch | None = None
    for batch in batches:
        with torch.cuda.stream(stream):
            coming = to_device(batch, device)
        if ahead is not None:
            yield ahead
        # Synchronised here, so that the step waits for its own batch alone, not for the copy that runs beside it.
        ahead = _synchronised(coming, stream)
    if ahead is not None:
        yield ahead


def _synchronised(batch: Batch, stream: torch.cuda.Stream) -> Batch:
    """The batch, safe to use on the current stream, which waits for the copy and keeps its memory from being reused."""
    current = torch.cuda.current_stream()
    current.wait_stream(stream)

    def record(tensor: torch.Tensor) -> torch.Tensor:
        tensor.record_stream(current)
        return tensor

    return batch.map(record)
