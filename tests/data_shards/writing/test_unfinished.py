"""The folder of an unfinished data set: locked, resumed by the same job only, renamed at the end."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.writing.unfinished import UnfinishedFolder

ROWS = pa.table({"key": ["a", "b"]})


def test_finished_shards_are_found_by_the_same_job(tmp_path: Path) -> None:
    first = UnfinishedFolder(tmp_path / "out", "job")
    for shard in (0, 1, 3):
        first.record("segments", shard, ROWS, {"num_bytes": shard})
    first.release()
    again = UnfinishedFolder(tmp_path / "out", "job")
    assert again.num_done("segments") == 2  # shard 2 is missing
    assert again.is_done("segments", 3)
    assert again.num_done("stimuli") == 0
    rows, note = again.rows("segments", 1)
    assert (rows, note) == (ROWS, {"num_bytes": 1})
    again.discard()
    assert list(tmp_path.iterdir()) == []


def test_what_another_job_left_is_removed(tmp_path: Path) -> None:
    first = UnfinishedFolder(tmp_path / "out", "job")
    first.record("stimuli", 0, ROWS, {})
    (first.data / "segments" / "00000.tar").write_bytes(b"x")
    first.release()
    other = UnfinishedFolder(tmp_path / "out", "another job")
    assert other.num_done("stimuli") == 0
    assert list((other.data / "segments").iterdir()) == []
    other.discard()


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    held = UnfinishedFolder(tmp_path / "out", "job")
    with pytest.raises(UserError, match="another process is writing"):
        UnfinishedFolder(tmp_path / "out", "job")
    held.discard()
    UnfinishedFolder(tmp_path / "out", "job").discard()


def test_publishing_gives_the_data_its_name(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    unfinished = UnfinishedFolder(tmp_path / "out", "job")
    (unfinished.data / "dataset.json").write_text("{}")
    unfinished.publish()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "dataset.json").read_text() == "{}"
    with pytest.raises(UserError, match="not empty"):
        UnfinishedFolder(tmp_path / "out", "job")


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more", None])
def test_a_damaged_record_of_an_interrupted_job_is_named(tmp_path: Path, content: bytes | None) -> None:
    unfinished = UnfinishedFolder(tmp_path / "out", "job")
    unfinished.record("segments", 0, ROWS, {})
    path = next((unfinished.folder / "done").iterdir())
    if content is None:
        pq.write_table(ROWS, path)  # without the note
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=rf"cannot go on from {path}: .*Remove {unfinished.folder}, and run the same"):
        unfinished.rows("segments", 0)
    unfinished.discard()
