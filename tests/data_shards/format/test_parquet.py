"""Texts that unfold to gigabytes are refused before they are made; those of real tables are read as they are."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neuroimagen.data_shards.common import limits
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.format import parquet
from neuroimagen.data_shards.format.parquet import open_parquet, read_parquet_table


def written(path: Path, texts: list[str | None]) -> Path:
    pq.write_table(pa.table({"text": texts, "number": list(range(len(texts)))}), path, compression="zstd")
    return path


def test_texts_and_numbers_are_read_as_they_are(tmp_path: Path) -> None:
    texts = ["a", None, "ü", "a", ""] * 50
    path = written(tmp_path / "t.parquet", texts)
    table = read_parquet_table(path)
    assert table.schema.field("text").type == pa.string()
    assert table["text"].to_pylist() == texts
    assert read_parquet_table(path, ["number"]).column_names == ["number"]


def test_one_long_text_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "t.parquet", ["x" * (limits.MAX_CELL_BYTES + 1)])
    with pytest.raises(UserError, match="column 'text' has 65,537 bytes"):
        read_parquet_table(path)


def test_a_text_that_many_rows_share_is_refused_unfolded(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    rows = 50_000
    shared = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), ["x" * limits.MAX_CELL_BYTES])
    pq.write_table(pa.table({"text": shared}), path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 100_000
    with pytest.raises(UserError, match="unfold to 3,276,800,000 bytes"):
        read_parquet_table(path)


def test_a_large_row_group_and_no_parquet_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "t.parquet", ["a", "b"])
    monkeypatch.setattr(parquet, "MAX_ROW_GROUP_BYTES", 10)
    with pytest.raises(UserError, match="row group 0 would unpack"):
        open_parquet(path)
    path.write_bytes(b"PAR1")
    with pytest.raises(UserError, match="cannot read"):
        open_parquet(path)
