"""Parquet tables and JSON mappings: what is missing or damaged is named."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.published.tables import (
    Column,
    Kind,
    read_matrices,
    read_rows,
    read_text_mapping,
)


def test_parquet_files_are_put_together(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.parquet" for number in range(2)]
    for number, path in enumerate(paths):
        pq.write_table(pa.table({"a": [number], "b": ["x"]}), path)
    a, b = Column(Kind.WHOLE_NUMBER), Column(Kind.TEXT)
    assert read_rows(paths, {"a": a}) == [{"a": 0}, {"a": 1}]
    assert read_rows(paths[:1], {"b": b, "c": Column(Kind.FLAG, optional=True)}, also=("a",)) == [{"b": "x"}]
    for columns, also in (({"c": a}, ()), ({"a": a}, ("c",))):
        with pytest.raises(UserError, match="has no column 'c'; it has a, b"):
            read_rows(paths[:1], columns, also=also)
    paths[0].write_bytes(b"PAR1 and nothing")
    with pytest.raises(UserError, match=r"cannot read .*0\.parquet"):
        read_rows(paths[:1], {"a": a})
    with pytest.raises(UserError, match=r"cannot read .*none\.parquet"):
        read_rows([tmp_path / "none.parquet"], {"a": a})


@pytest.mark.parametrize(
    ("kind", "stored", "expected"),
    [
        (Kind.WHOLE_NUMBER, pa.array([3, -4], pa.int8()), [3, -4]),
        (Kind.WHOLE_NUMBER, pa.array([3.0, -0.0]), [3, 0]),
        (Kind.NUMBER, pa.array([3, -4]), [3.0, -4.0]),
        (Kind.NUMBER, pa.array([0.5, -2.0], pa.float32()), [0.5, -2.0]),
        (Kind.TEXT, pa.array(["ä", ""]), ["ä", ""]),
        (Kind.TEXT, pa.array(["a", "a"]).dictionary_encode(), ["a", "a"]),
        (Kind.NAME, pa.array([1, 2]), [1, 2]),
        (Kind.NAME, pa.array(["1", "x"], pa.large_string()), ["1", "x"]),
        (Kind.FLAG, pa.array([True, False]), [True, False]),
    ],
)
def test_values_are_of_their_columns_kind(tmp_path: Path, kind: Kind, stored: pa.Array, expected: list) -> None:
    pq.write_table(pa.table({"a": stored}), tmp_path / "a.parquet")
    found = [row["a"] for row in read_rows([tmp_path / "a.parquet"], {"a": Column(kind)})]
    assert found == expected
    assert [type(value) for value in found] == [type(value) for value in expected]


@pytest.mark.parametrize(
    ("kind", "stored", "message"),
    [
        (Kind.WHOLE_NUMBER, pa.array([1, None]), "row 1: nothing is not a whole number"),
        (Kind.WHOLE_NUMBER, pa.array([1.0, 1.5]), "row 1: 1.5 is not a whole number"),
        (Kind.WHOLE_NUMBER, pa.array([1.0, np.nan]), "row 1: nan is not a whole number"),
        (Kind.WHOLE_NUMBER, pa.array([1, 2**31]), "row 1: 2147483648 is not a whole number"),
        (Kind.WHOLE_NUMBER, pa.array([2**64 - 1], pa.uint64()), "row 0: 18446744073709551615 is not"),
        (Kind.WHOLE_NUMBER, pa.array(["1"]), "holds string; expected a whole number in each row"),
        (Kind.WHOLE_NUMBER, pa.array([True]), "holds bool"),
        (Kind.NUMBER, pa.array([0.0, -np.inf]), "row 1: -inf is not a finite number"),
        (Kind.NUMBER, pa.array([[0.0]]), "holds list<"),
        (Kind.TEXT, pa.array(["a", None]), "row 1: nothing is not a text"),
        (Kind.TEXT, pa.array([b"a"]), "holds binary"),
        (Kind.NAME, pa.array([1.0]), "holds double"),
        (Kind.FLAG, pa.array([0, 1]), "holds int64"),
        (Kind.NUMBER, pa.nulls(2), "holds null"),
    ],
)
def test_a_value_of_another_kind_is_named(tmp_path: Path, kind: Kind, stored: pa.Array, message: str) -> None:
    pq.write_table(pa.table({"a": stored}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=rf"t\.parquet, column 'a'.*{re.escape(message)}"):
        read_rows([tmp_path / "t.parquet"], {"a": Column(kind)})


@pytest.mark.parametrize("kind", list(Kind))
def test_a_column_may_be_allowed_to_have_no_values(tmp_path: Path, kind: Kind) -> None:
    value = {Kind.TEXT: "a", Kind.NAME: "a", Kind.FLAG: True}.get(kind, 1)
    for stored in (pa.nulls(2), pa.array([value, None])):
        pq.write_table(pa.table({"a": stored}), tmp_path / "t.parquet")
        rows = read_rows([tmp_path / "t.parquet"], {"a": Column(kind, nullable=True)})
        assert [row["a"] for row in rows] == stored.to_pylist()


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
