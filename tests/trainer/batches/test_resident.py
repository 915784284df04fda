"""Data that stay on the device give the reader's batches, bit for bit, and training what streaming gives."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from device_traffic import DEVICE, DeviceTraffic
from torch import Tensor

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.joined import JoinedDataset
from neuroimagen.data_shards.format.storage import CorruptSampleError
from neuroimagen.data_shards.loading.plan import BalancedPlan, Plan, ShufflePlan
from neuroimagen.data_shards.loading.reader import Batch
from neuroimagen.trainer.batches.device_feed import Feed, StreamedFeed
from neuroimagen.trainer.batches.resident import ResidentFeed, resident_bytes
from neuroimagen.trainer.batches.stage_data import BatchNeeds, OrderConfig, StageData, memory_share

CPU = torch.device("cpu")
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.gpu),
]


def assert_equal(first: Batch, second: Batch) -> None:
    assert first.latents.keys() == second.latents.keys()
    for field in dataclasses.fields(Batch):
        one, other = getattr(first, field.name), getattr(second, field.name)
        assert isinstance(one, Tensor) == isinstance(other, Tensor), field.name
        if isinstance(one, Tensor):
            assert one.dtype == other.dtype, field.name
            assert torch.equal(one.cpu(), other.cpu()), field.name
    for kind, values in first.latents.items():
        assert values.dtype == second.latents[kind].dtype == torch.float32
        assert torch.equal(values.cpu(), second.latents[kind].cpu()), kind


def some(feed: Feed, count: int, epoch: int = 0, step: int = 0) -> list[Batch]:
    return list(itertools.islice(feed.epochs(epoch, step), count))


@pytest.fixture
def dataset(study_folder: Path) -> Dataset:
    """The small study with scales that round, as in a joined data set."""
    dataset = Dataset.open(study_folder)
    dataset.index = dataclasses.replace(dataset.index, scale=np.linspace(0.1, 3, len(dataset), dtype=np.float32))
    return dataset


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("world_size", [1, 3])
def test_batches_are_the_reader_s(dataset: Dataset, tiny_diffusion_folder: Path, device: str, world_size: int) -> None:
    """Latents with shared captions and without, pictures; over an epoch's border, on each rank, from the middle."""
    latents = {kind: dataset.latents(kind, model=str(tiny_diffusion_folder)) for kind in ("text-class", "vae")}
    rows = dataset.rows("train")
    labels = dataset.index.label[rows]
    plans: list[Plan] = [ShufflePlan(rows, 3, 9, drop_last=True), BalancedPlan(rows, labels, 3, 4, 5)]
    for plan, rank in itertools.product(plans, range(world_size)):
        feeds: list[Feed] = []
        for gib in (0, 1):
            needs = BatchNeeds(latents=tuple(latents), image_size_px=8)
            options: dict[str, Any] = {"needs": needs, "latents": latents, "subjects": None, "resident_gib": gib}
            data = StageData(dataset, **options, device=torch.device(device))
            data.rank, data.world_size = rank, world_size
            feeds.append(data.feed(plan))
        streamed, resident = feeds
        assert isinstance(streamed, StreamedFeed)
        assert isinstance(resident, ResidentFeed)
        start = plan.steps_per_epoch - 2
        for one, other in zip(some(resident, 5, 1, start), some(streamed, 5, 1, start), strict=True):
            assert one.eeg.device.type == one.label.device.type == one.latents["vae"].device.type == device
            assert_equal(one, other)
        assert resident.wait_seconds == 0


def test_batches_of_joined_data_sets(
    study_folder: Path, make_tiny_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    more = make_tiny_dataset(tmp_path / "more", num_stimuli=40, n_channels=8, n_samples=44)
    dataset = JoinedDataset([Dataset.open(study_folder), Dataset.open(more)])
    plan = ShufflePlan(dataset.rows("train"), 0, 16, drop_last=True)
    feeds = [
        StageData(dataset, needs=BatchNeeds(), latents={}, subjects=None, device=CPU, resident_gib=gib).feed(plan)
        for gib in (1, 0)
    ]
    for one, other in zip(*(some(feed, 2 * plan.steps_per_epoch) for feed in feeds), strict=True):
        assert_equal(one, other)


def test_what_does_not_fit_is_streamed(dataset: Dataset, tiny_diffusion_folder: Path) -> None:
    """The bytes are counted before any is read: 2 a sample, 3 a pixel, distinct latents as they are stored."""
    latents = {"text-class": dataset.latents("text-class", model=str(tiny_diffusion_folder))}
    rows = dataset.rows("train")
    num_stimuli = len(set(dataset.index.stimulus[rows].tolist()))
    num_captions = len({latents["text-class"].texts[row] for row in dataset.index.stimulus[rows]})
    assert num_captions < num_stimuli
    shape = latents["text-class"].metadata.shape
    expected = len(rows) * 8 * 40 * 2 + num_stimuli * 3 * 8 * 8 + num_captions * shape[0] * shape[1] * 4
    assert resident_bytes(dataset, rows, latents=latents, image_size_px=8) == expected

    def feed(gib: float | None, order: str = "shuffled") -> Feed:
        needs = BatchNeeds(latents=("text-class",), image_size_px=8)
        config = OrderConfig(kind=order)  # type: ignore[arg-type]
        options: dict[str, Any] = {"needs": needs, "latents": latents, "subjects": None, "order": config}
        data = StageData(dataset, **options, device=CPU, resident_gib=gib)
        return data.feed(data.shuffled(rows, 0, 8))

    gib = expected / (1 << 30)
    assert isinstance(feed(gib), ResidentFeed)
    assert isinstance(feed(gib * (1 - 1e-6)), StreamedFeed)
    assert isinstance(feed(None), StreamedFeed)  # a CPU keeps nothing unless it is told to
    assert isinstance(feed(gib, "windowed"), StreamedFeed)  # its order is for data that are streamed
    assert isinstance(feed(gib, "resampled"), StreamedFeed)


def test_a_sixteenth_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        total_memory = 80 << 30

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    assert memory_share(torch.device("cuda:0")) == 5 << 30
    assert memory_share(CPU) == 0


def test_damaged_segments_are_found_before_training(study_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Dataset.open(study_folder)
    crc32 = dataset.index.crc32.copy()
    crc32[dataset.rows("train")[7]] ^= 1
    dataset.index = dataclasses.replace(dataset.index, crc32=crc32)
    plan = ShufflePlan(dataset.rows("train"), 0, 8)
    data = StageData(dataset, needs=BatchNeeds(), latents={}, subjects=None, device=CPU, resident_gib=1)
    with pytest.raises(CorruptSampleError, match="offset"):
        data.feed(plan)


def test_a_batch_is_gathered_without_a_wait(dataset: Dataset, tiny_diffusion_folder: Path) -> None:
    """All that enters the device for a batch is where its rows lie."""
    latents = {kind: dataset.latents(kind, model=str(tiny_diffusion_folder)) for kind in ("text-class", "vae")}
    rows = dataset.rows("train")
    options: dict[str, Any] = {"latents": latents, "image_size_px": 8, "device": DEVICE}
    batches: Iterator[Batch] = ResidentFeed(dataset, ShufflePlan(rows, 0, 8), rows, **options).epochs(0)
    for _ in range(3):
        with DeviceTraffic() as traffic:
            batch = next(batches)
        assert [crossing.what for crossing in traffic.crossings] == ["copy in"]
        assert batch.eeg.shape == (8, 8, 40)
        assert batch.eeg.device == DEVICE


@pytest.mark.parametrize("stage", ["contrastive", "saliency", "semantic"])
def test_a_run_ends_with_the_same_weights(
    train_here: Callable[..., Path], recipe_path: Path, tmp_path: Path, stage: str
) -> None:
    fresh = () if stage == "contrastive" else (f"{stage}.initialise_from=null",)
    exports = []
    for gib in (0, 1):
        folder = train_here(recipe_path, stage, tmp_path / str(gib), f"data.resident_gib={gib}", *fresh)
        exports.append((folder / "export" / "model.safetensors").read_bytes())
    assert exports[0] == exports[1]
