"""Parquet tables and JSON mappings: what is missing or damaged is named."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.published.tables import (
    parquet_columns,
    read_matrices,
    read_parquet,
    read_text_mapping,
)


def test_parquet_files_are_put_together(tmp_path: Path) -> None:
    for number in range(2):
        pq.write_table(pa.table({"a": [number], "b": ["x"]}), tmp_path / f"{number}.parquet")
    assert read_parquet([tmp_path / "0.parquet", tmp_path / "1.parquet"], ("a",)).to_pydict()["a"] == [0, 1]
    for columns, also in ((("c",), ()), (("a",), ("c",))):
        with pytest.raises(UserError, match="has no column 'c'; it has a, b"):
            read_parquet([tmp_path / "0.parquet"], columns, also=also)
    assert read_parquet([tmp_path / "0.parquet"], ("b",), also=("a",)).column_names == ["b"]
    assert parquet_columns(tmp_path / "0.parquet") == ["a", "b"]
    (tmp_path / "0.parquet").write_bytes(b"PAR1 and nothing")
    with pytest.raises(UserError, match=r"cannot read .*0\.parquet"):
        read_parquet([tmp_path / "0.parquet"], ())
    with pytest.raises(UserError, match=r"cannot read .*none\.parquet"):
        read_parquet([tmp_path / "none.parquet"], ())


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', "[" * 100_000])
def test_a_mapping_is_an_object_of_texts(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text('{"n1": "dog"}')
    assert read_text_mapping(tmp_path / "a.json") == {"n1": "dog"}
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=r"a\.json (is not JSON|must be a JSON object)"):
        read_text_mapping(tmp_path / "a.json")
    with pytest.raises(UserError, match="No such file"):
        read_text_mapping(tmp_path / "none.json")


def test_matrices_are_read_by_row_through_all_files(tmp_path: Path) -> None:
    eeg = np.random.default_rng(0).standard_normal((40, 3, 5))
    paths = []
    for first in (0, 17):
        paths.append(tmp_path / f"{first}.parquet")
        part = eeg[first : 17 if first == 0 else 40].tolist()
        pq.write_table(pa.table({"eeg": part, "other": list(range(len(part)))}), paths[-1], row_group_size=7)
    for rows in ([], [0], [39], [3, 16, 17, 39], list(range(40))):
        found = list(read_matrices(paths, "eeg", rows))
        assert len(found) == len(rows)
        for matrix, row in zip(found, rows, strict=True):
            np.testing.assert_array_equal(matrix, eeg[row])
