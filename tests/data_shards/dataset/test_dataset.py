"""An open data set: rows of a split, segments, and opening it again in another process."""

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.format.storage import CorruptSampleError


def test_splits_and_subjects_choose_rows(make_dataset: Any) -> None:
    dataset = make_dataset(40)
    rows = {split: dataset.rows(split) for split in ("train", "val", "test")}
    assert [len(found) for found in rows.values()] == [20, 10, 10]
    assert np.array_equal(np.sort(np.concatenate(list(rows.values()))), np.arange(40))
    assert all((dataset.index.split[found] == split).all() for split, found in rows.items())
    assert dataset.rows("train", [1]).tolist() == [row for row in range(40) if row % 4 == 0]
    assert dataset.rows("train", [1, 2]).tolist() == rows["train"].tolist()
    with pytest.raises(UserError, match="split 'dev' is not one of train, val, test"):
        dataset.rows("dev")
    with pytest.raises(UserError, match="subject 3 is not in the data set"):
        dataset.rows("train", [1, 3])


def test_a_segment_is_its_stored_half_precision_times_its_scale(make_dataset: Any) -> None:
    dataset = make_dataset(8)
    for row in range(8):
        stored = np.frombuffer(dataset.eeg_bytes(row), dtype="<f2").reshape(5, 33)
        eeg = dataset.eeg(row)
        assert (eeg.shape, eeg.dtype) == ((5, 33), np.float32)
        assert np.array_equal(eeg, stored.astype(np.float32) * np.float32(dataset.index.scale[row]))
    contents = [bytes(content) for content in dataset.eeg_contents(np.array([5, 2, 5]))]
    assert contents == [bytes(dataset.eeg_bytes(row)) for row in (5, 2, 5)]


def test_another_process_opens_it_by_its_location(make_dataset: Any) -> None:
    dataset = make_dataset(8)
    again = pickle.loads(pickle.dumps(dataset))
    assert (again.location, again.digest) == (dataset.location, dataset.digest)
    assert np.array_equal(again.eeg(3), dataset.eeg(3))
    source, own = dataset.locate(np.array([4, 7]))
    assert (source.tolist(), own.tolist(), dataset.sources) == ([0, 0], [4, 7], (dataset,))


def test_the_digest_is_of_the_content(make_dataset: Any, tmp_path: Path) -> None:
    dataset = make_dataset(8)
    copied = Dataset.open(shutil.copytree(dataset.folder, tmp_path / "copied"))
    assert copied.digest == dataset.digest
    assert len(dataset.digest) == 16
    assert make_dataset(8, seed=1, name="other").digest != dataset.digest


def test_a_damaged_segment_is_named(make_dataset: Any) -> None:
    dataset = make_dataset(8)
    shard = dataset.folder / "segments" / "00000.tar"
    content = bytearray(shard.read_bytes())
    content[int(dataset.index.offset[3]) + 200] ^= 1
    shard.unlink()  # a new file: the old one may be mapped
    shard.write_bytes(content)
    again = Dataset.open(dataset.folder)
    with pytest.raises(CorruptSampleError, match=rf"segment 000000003 at offset {again.index.offset[3]} is damaged"):
        again.eeg(3)
    assert again.eeg(2).shape == (5, 33)
