"""Tables of several row groups: read in pieces they are what Arrow reads whole, and every piece is checked."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.format.schema import SPLITS, metadata_digest
from neuroimagen.data_shards.format.tables import numpy_column


def _rewrite(folder: Path, change: Callable[[pa.Table], pa.Table], *, rows_per_group: int) -> pa.Table:
    """Write the index anew in small row groups, its digest in dataset.json made to fit."""
    table = change(pq.read_table(folder / "index.parquet"))
    pq.write_table(table, folder / "index.parquet", row_group_size=rows_per_group)
    raw = json.loads((folder / "dataset.json").read_text())
    raw["tables"]["index.parquet"] = hashlib.sha256((folder / "index.parquet").read_bytes()).hexdigest()
    raw.pop("sha256")
    (folder / "dataset.json").write_text(json.dumps({**raw, "sha256": metadata_digest(raw)}))
    return table


@pytest.mark.parametrize("rows_per_group", [1, 7, 39, 40, 1000])
def test_row_groups_of_any_size_are_read_whole(make_dataset: Any, rows_per_group: int) -> None:
    folder = make_dataset(40).folder
    table = _rewrite(folder, lambda table: table, rows_per_group=rows_per_group)
    index = Dataset.open(folder).index
    for name in set(table.column_names) - {"key", "split", "session", "recording"}:
        column = getattr(index, name)
        np.testing.assert_array_equal(column, table.column(name).to_numpy())
        assert column.dtype == table.schema.field(name).type.to_pandas_dtype()
    assert [SPLITS[code] for code in index.split_code] == table.column("split").to_pylist()
    assert index.split_code.dtype == np.int8
    for name in ("session", "recording"):
        assert getattr(index, name).tolist() == table.column(name).to_pylist()
    assert len(index.sessions) == 2


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("offset", 513, "row 38 claims .* at offset 513"),
        ("label", 3, "label runs from . to 3"),
        ("scale", float("inf"), "scale is not a positive number"),
        ("split", "secret", "'split' holds values other than"),
        ("split", None, "has columns|holds values other than"),
    ],
)
def test_a_wrong_value_in_the_last_row_group_is_found(
    make_dataset: Any, column: str, value: object, message: str
) -> None:
    folder = make_dataset(40).folder

    def change(table: pa.Table) -> pa.Table:
        values = table.column(column).to_pylist()
        values[38] = value
        field = table.schema.field(column).with_nullable(value is None)
        return table.set_column(table.schema.get_field_index(column), field, pa.array(values, type=field.type))

    _rewrite(folder, change, rows_per_group=7)
    with pytest.raises(UserError, match=message):
        Dataset.open(folder)


def test_columns_become_numpy_as_arrow_itself_does_it() -> None:
    whole = pa.array(np.arange(10, dtype=np.int32))
    for column in (
        pa.chunked_array([whole]),
        pa.chunked_array([whole.slice(3, 5)]),
        pa.chunked_array([whole.slice(0, 2), whole.slice(2, 0), whole.slice(7)]),
        pa.chunked_array([], type=pa.int32()),
    ):
        found = numpy_column(pa.table({"x": column}), "x")
        np.testing.assert_array_equal(found, column.to_numpy())
        assert found.dtype == np.int32
    with pytest.raises(UserError, match="holds 1 nulls"):
        numpy_column(pa.table({"x": pa.array([1, None], pa.int32())}), "x")


def test_opening_does_without_pandas(make_dataset: Any) -> None:
    """Arrow's own conversions import it, which takes longer than opening ten million rows does."""
    folder = make_dataset(12).folder
    script = (
        "import sys; from neuroimagen.data_shards.dataset.dataset import Dataset; "
        f"assert len(Dataset.open({str(folder)!r})) == 12; sys.exit('pandas' in sys.modules)"
    )
    subprocess.run([sys.executable, "-P", "-c", script], check=True)
