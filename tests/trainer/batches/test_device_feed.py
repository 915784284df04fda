"""Batches on the training device hold what the reader would have decoded on the CPU, bit for bit."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.loading.plan import ShufflePlan
from neuroimagen.data_shards.loading.reader import Batch, Reader
from neuroimagen.trainer.batches.device_feed import on_device

_DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.gpu),
]


def _equal(first: Batch, second: Batch) -> bool:
    assert first.latents.keys() == second.latents.keys()
    pairs = [(getattr(first, field.name), getattr(second, field.name)) for field in dataclasses.fields(Batch)]
    tensors = [(a, b) for a, b in pairs if isinstance(a, torch.Tensor)]
    tensors += [(first.latents[kind], second.latents[kind]) for kind in first.latents]
    return all(a.dtype == b.dtype and torch.equal(a.cpu(), b.cpu()) for a, b in tensors)


@pytest.mark.parametrize("device", _DEVICES)
def test_stored_batches_are_decoded_on_the_device(study_folder: Path, device: str) -> None:
    dataset = Dataset.open(study_folder)
    # As in a joined data set, where the scale is no power of two and the product is rounded.
    dataset.index = dataclasses.replace(dataset.index, scale=np.linspace(0.1, 3, len(dataset), dtype=np.float32))
    plan = ShufflePlan(dataset.rows("train"), 0, 9)

    class Latents:
        def get(self, stimuli: np.ndarray) -> torch.Tensor:
            return torch.as_tensor(stimuli).float()[:, None] * 2

    options = {"latents": {"vae": Latents()}, "image_size_px": 8}
    expected = list(Reader(dataset, plan, **options).epoch(1))
    stored = Reader(dataset, plan, **options, as_stored=True)
    assert next(iter(stored.epoch(1))).eeg.dtype == torch.float16
    found = list(on_device(stored.epoch(1), torch.device(device)))
    assert len(found) == len(expected) > 5
    for one, other in zip(found, expected, strict=True):
        assert one.eeg.device.type == one.label.device.type == one.latents["vae"].device.type == device
        assert one.scale is None
        assert _equal(one, other)


def test_on_a_gpu_a_batch_is_copied_while_the_one_before_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of events, with streams that only take notes."""
    events: list[str] = []

    class Stream:
        def __init__(self, *_: object) -> None: ...
        def wait_stream(self, _: object) -> None:
            events.append("wait")

        def __enter__(self) -> None:
            events.append("copy")

        def __exit__(self, *_: object) -> None: ...

    for name in ("Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)
    nothing = torch.zeros(1, device="meta")
    batch = Batch(
        rows=torch.zeros(1), eeg=nothing, label=nothing, subject=nothing, stimulus=nothing, images=None, latents={}
    )
    for _ in on_device(iter([batch] * 3), torch.device("meta")):
        events.append("step")
    assert events == ["copy", "wait", "copy", "step", "wait", "copy", "step", "wait", "step"]
