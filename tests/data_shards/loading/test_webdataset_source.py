"""The planned reader as a webdataset pipeline source; Hugging Face `datasets` on our shards."""

import io
import json
import pickle

import numpy as np
import pytest
import webdataset

from neuroimagen.data_shards.format.storage import CorruptSampleError
from neuroimagen.data_shards.loading.plan import ShufflePlan
from neuroimagen.data_shards.loading.webdataset_source import PlannedSamples, ResampledReader, resampled_samples


def _decode(sample: dict) -> tuple[str, np.ndarray, int]:
    fields = json.loads(sample["json"])
    stored = np.load(io.BytesIO(sample["eeg.npy"]), allow_pickle=False)
    return sample["__key__"], stored.astype(np.float32) * np.float32(fields["scale"]), fields["label"]


def test_pipeline_stages_compose_on_top_in_the_order_of_the_plan(make_dataset) -> None:
    dataset = make_dataset(40)
    plan = ShufflePlan(np.arange(40), 0, 8)
    pipeline = webdataset.DataPipeline(
        PlannedSamples(dataset, plan, epoch=1), webdataset.map(_decode), webdataset.batched(8)
    )
    batches = list(pipeline)
    for step, (keys, eeg, labels) in enumerate(batches):
        rows = plan.batch(1, step)
        assert keys == dataset.index.key[rows].tolist()
        assert labels.tolist() == dataset.index.label[rows].tolist()
        np.testing.assert_array_equal(eeg, np.stack([dataset.eeg(row) for row in rows]))
    assert len(batches) == 5


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_loader_workers_keep_the_order(make_dataset, num_workers: int) -> None:
    dataset = make_dataset(40)
    plan = ShufflePlan(np.arange(40), 0, 8)
    pipeline = webdataset.DataPipeline(
        PlannedSamples(dataset, plan, rank=1, world_size=2, start_step=1),
        webdataset.map(_decode),
        webdataset.batched(4),
    )
    loader = webdataset.WebLoader(pipeline, batch_size=None, num_workers=num_workers)
    keys = [keys for keys, _, _ in loader]
    assert keys == [dataset.index.key[plan.batch(0, step)[4:]].tolist() for step in range(1, 5)]


def test_a_source_travels_to_another_process(make_dataset) -> None:
    source = PlannedSamples(make_dataset(12), ShufflePlan(np.arange(12), 0, 5))
    copy = pickle.loads(pickle.dumps(source))
    assert [sample["__key__"] for sample in copy] == [sample["__key__"] for sample in source]


def test_images_and_the_library_s_own_decoders(make_dataset) -> None:
    dataset = make_dataset(10)
    source = PlannedSamples(dataset, ShufflePlan(np.arange(10), 0, 4), images=True)
    for sample in webdataset.DataPipeline(source, webdataset.decode("rgb8", only=["eeg.npy", "json", "jpg", "png"])):
        row = int(sample["__key__"])
        image = sample.get("jpg", sample.get("png"))
        np.testing.assert_array_equal(image, np.asarray(dataset.stimuli.image(dataset.index.stimulus[row])))
        assert sample["eeg.npy"].shape == (5, 33)
        assert sample["json"]["caption"] == f"an image of class {sample['json']['label']}"


def test_resampled_stream_never_ends_and_yields_our_samples(make_dataset) -> None:
    dataset = make_dataset(200)
    stream = iter(resampled_samples(dataset, seed=3, shuffle=20))
    keys = []
    for _ in range(500):
        key, eeg, _ = _decode(next(stream))
        np.testing.assert_array_equal(eeg, dataset.eeg(int(key)))
        keys.append(key)
    again = iter(resampled_samples(dataset, seed=3, shuffle=20))
    assert [next(again)["__key__"] for _ in range(50)] == keys[:50]


def test_hugging_face_datasets_reads_the_shards(make_dataset, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    dataset = make_dataset(30)
    files = [str(path) for path in sorted((dataset.folder / "segments").iterdir())]
    loaded = datasets.load_dataset(
        "webdataset", data_files=files, split="train", streaming=True, cache_dir=str(tmp_path)
    )
    rows = 0
    for row, sample in enumerate(loaded):
        assert sample["__key__"] == dataset.index.key[row]
        stored = np.asarray(sample["eeg.npy"], dtype=np.float32)
        np.testing.assert_array_equal(stored * np.float32(sample["json"]["scale"]), dataset.eeg(row))
        rows += 1
    assert rows == 30


def test_resampled_reader_gives_intact_batches_of_the_rows_asked_for(make_dataset) -> None:
    dataset = make_dataset(200)
    rows = dataset.rows("train")
    readers = [ResampledReader(dataset, rows, 10, seed=1, shuffle=50, rank=r, world_size=2) for r in range(2)]
    streams = [list(reader.epoch(0)) for reader in readers]
    assert [len(stream) for stream in streams] == [len(rows) // 10] * 2
    for batch in streams[0]:
        assert np.isin(batch.rows.numpy(), rows).all()
        np.testing.assert_array_equal(batch.eeg.numpy(), np.stack([dataset.eeg(row) for row in batch.rows.tolist()]))
        assert batch.label.tolist() == dataset.index.label[batch.rows.numpy()].tolist()
    first = [batch.rows.tolist() for batch in streams[0]]
    assert first == [batch.rows.tolist() for batch in readers[0].epoch(0)]
    assert first != [batch.rows.tolist() for batch in streams[1]]
    assert first != [batch.rows.tolist() for batch in readers[0].epoch(1)]
    assert len({row for batch in first for row in batch}) > 20
    shard = dataset.folder / "segments" / "00000.tar"
    content = bytearray(shard.read_bytes())
    content[700] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CorruptSampleError, match=r"00000\.tar: segment 000000000 is damaged"):
        sum(len(batch) for epoch in range(50) for batch in readers[0].epoch(epoch))
