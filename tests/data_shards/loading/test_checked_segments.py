"""Segments compared with their CRC; the replacement of damaged ones."""

from pathlib import Path

import numpy as np
import pytest

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.format.storage import CorruptSampleError
from neuroimagen.data_shards.loading.checked_segments import CheckedSegments


def damage(dataset: Dataset, rows: list[int]) -> Dataset:
    """The data set with one byte flipped in each of the rows."""
    index = dataset.index
    for row in rows:
        path: Path = dataset.folder / "segments" / f"{index.shard[row]:05d}.tar"
        content = bytearray(path.read_bytes())
        content[int(index.offset[row]) + 200] ^= 1
        path.write_bytes(content)
    return Dataset.open(dataset.folder)


def alike(dataset: Dataset, row: int) -> list[int]:
    """Rows of the same class and split, from the next one on, around the end."""
    index = dataset.index
    rows = np.flatnonzero((index.label == index.label[row]) & (index.split_code == index.split_code[row])).tolist()
    place = rows.index(row)
    return rows[place + 1 :] + rows[:place]


def test_undamaged_segments_are_returned_in_order(make_dataset) -> None:
    dataset = make_dataset(20)
    rows = np.array([3, 0, 19, 3])
    segments = CheckedSegments(dataset, "error")
    assert [bytes(content) for content in segments.read(rows)] == [bytes(dataset.eeg_bytes(row)) for row in rows]
    assert segments.corrupt == {}


def test_damage_is_an_error_that_names_the_segment(make_dataset) -> None:
    dataset = damage(make_dataset(20), [5])
    segments = CheckedSegments(dataset, "error").read(np.array([4, 5]))
    assert bytes(next(segments)) == bytes(dataset.eeg_bytes(4))
    with pytest.raises(CorruptSampleError, match="segment 000000005 at offset"):
        next(segments)


def test_a_damaged_segment_is_replaced_by_the_next_of_its_class_and_split(make_dataset) -> None:
    dataset = make_dataset(200)
    first, second = alike(dataset, 40)[:2]
    dataset = damage(dataset, [40, first])  # the first candidate is damaged too
    segments = CheckedSegments(dataset, "skip")
    rows = np.array([1, 40, 2])
    contents = [bytes(content) for content in segments.read(rows)]
    assert rows.tolist() == [1, second, 2]
    assert contents == [bytes(dataset.eeg_bytes(row)) for row in (1, second, 2)]
    assert set(segments.corrupt) == {40, first}


def test_more_than_one_per_cent_is_always_an_error(make_dataset) -> None:
    dataset = damage(make_dataset(200), [10, 20, 30])
    segments = CheckedSegments(dataset, "skip")
    with pytest.raises(CorruptSampleError, match=r"3 of 200 segments are damaged, more than 1 %.*Run `data verify`"):
        list(segments.read(np.arange(200)))


def test_without_a_replacement_it_is_an_error(make_dataset) -> None:
    dataset = make_dataset(8)
    lonely = next(row for row in range(8) if not alike(dataset, row))
    segments = CheckedSegments(damage(dataset, [lonely]), "skip")
    with pytest.raises(CorruptSampleError, match="All other segments of its class and split are damaged too"):
        list(segments.read(np.array([lonely])))
