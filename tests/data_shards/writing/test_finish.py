"""The last step of writing: tables in row groups of one size, and the counts of dataset.json."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neuroimagen.data_shards.format.schema import (
    INDEX_SCHEMA,
    STIMULI_SCHEMA,
    ClassInfo,
    DatasetMetadata,
    read_metadata,
    segment_key,
)
from neuroimagen.data_shards.writing import finish
from neuroimagen.data_shards.writing.unfinished import UnfinishedFolder

METADATA = DatasetMetadata(name="t", n_channels=2, n_samples=4, sfreq=100.0, classes=(ClassInfo(name="a"),))


def segment(row: int, shard: int) -> dict[str, object]:
    place = {"key": segment_key(row), "shard": shard, "offset": 512, "size": 144, "crc32": row, "scale": 1.0}
    what = {
        "label": 0,
        "stimulus": 0,
        "subject": (5, 2)[row % 2],
        "block": -1,
        "order": row,
        "session": "",
        "recording": "",
        "onset_s": float("nan"),
    }
    return {**place, **what, "split": ("train", "train", "test")[row % 3]}


def test_tables_and_counts_are_those_of_all_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finish, "ROWS_PER_GROUP", 4)
    unfinished = UnfinishedFolder(tmp_path / "out", "job")
    stimulus = {"key": "s", "shard": 0, "offset": 512, "size": 3, "crc32": 1, "extension": "jpg", "label": 0}
    stimuli = [{**stimulus, "caption": "an image of a", "detailed_caption": None}]
    unfinished.record("stimuli", 0, pa.Table.from_pylist(stimuli, schema=STIMULI_SCHEMA), {"num_bytes": 2048})
    for shard, rows in enumerate((range(3), range(3, 6), range(6, 9))):
        table = pa.Table.from_pylist([segment(row, shard) for row in rows], schema=INDEX_SCHEMA)
        error = {"worst_rms": 1e-4 * shard, "worst_absolute": 1e-3}
        unfinished.record("segments", shard, table, {"num_bytes": 4096 + shard, "round_trip": error})
    finish.finish(unfinished, METADATA, num_stimulus_shards=1, num_segment_shards=3)
    metadata = read_metadata(tmp_path / "out" / "dataset.json")
    assert (metadata.num_segments, metadata.num_stimuli, metadata.subjects) == (9, 1, (2, 5))
    assert metadata.split_counts == {"train": 6, "val": 0, "test": 3}
    assert metadata.segment_shards == (4096, 4097, 4098)
    assert metadata.stimulus_shards == (2048,)
    assert metadata.storage == {
        "dtype": "float16",
        "round_trip_rms_error": 2e-4,
        "round_trip_largest_error": 1e-3,
    }
    index = pq.ParquetFile(tmp_path / "out" / "index.parquet")
    assert [index.metadata.row_group(group).num_rows for group in range(index.num_row_groups)] == [4, 4, 1]
    assert index.read()["order"].to_pylist() == list(range(9))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
