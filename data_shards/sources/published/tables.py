"""Tables that published data sets have: Parquet, whose columns say what they hold, and JSON objects of texts."""

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.limits import shortened
from neuroimagen.data_shards.common.reading import read_json
from neuroimagen.data_shards.format.parquet import open_parquet, read_parquet_table

_MAX_JSON_BYTES = 64 << 20
_BATCH_ROWS = 64
_LARGEST_WHOLE_NUMBER = 2**31 - 1
"""What the index stores: subjects, blocks and places in an order."""


class Kind(enum.Enum):
    """What a column holds, as a message says it."""

    WHOLE_NUMBER = "a whole number"
    """int; numbers with a fraction, text and values beyond 32 bits are refused."""
    NUMBER = "a finite number"
    """float."""
    TEXT = "a text"
    """str."""
    NAME = "a text or a whole number"
    """str or int, as it stands."""
    FLAG = "true or false"
    """bool."""


@dataclass(frozen=True)
class Column:
    """A column that a source takes."""

    kind: Kind
    optional: bool = False
    """A file may be without it; the rows are, too."""
    nullable: bool = False
    """A row may have no value, which is None."""


def read_rows(
    paths: Sequence[Path], columns: Mapping[str, Column], *, also: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """The rows of Parquet files, one file after the other: each column's name → its value, of the column's kind.

    also: columns that must be there, and are not read. Raises UserError naming the file, the column, and the row where
    a value is of another kind.
    """
    rows: list[dict[str, Any]] = []
    for path in paths:
        names = open_parquet(path).schema_arrow.names
        required = [name for name, column in columns.items() if not column.optional]
        if missing := [name for name in (*required, *also) if name not in names]:
            raise UserError(f"{path} has no column {missing[0]!r}; it has {', '.join(names)}.")
        taken = [name for name in columns if name in names]
        table = read_parquet_table(path, taken)
        values = [_values(table.column(name), columns[name], f"{path}, column {name!r}") for name in taken]
        rows += [dict(zip(taken, row, strict=True)) for row in zip(*values, strict=True)]
    return rows


def _values(stored: pa.ChunkedArray, column: Column, where: str) -> list[Any]:
    if pa.types.is_null(stored.type) and column.nullable:
        return [None] * len(stored)
    if not _is_stored_as(column.kind, stored.type):
        raise UserError(f"{where} holds {stored.type}; expected {column.kind.value} in each row.")
    fits = pc.if_else(pc.is_valid(stored), _fits(column.kind, stored), column.nullable)
    if (row := pc.index(fits, False).as_py()) >= 0:
        value = stored[row].as_py()
        found = "nothing" if value is None else shortened(repr(value))
        raise UserError(f"{where}, row {row}: {found} is not {column.kind.value}.")
    if column.kind is Kind.WHOLE_NUMBER:
        stored = stored.cast(pa.int64())
    elif column.kind is Kind.NUMBER:
        stored = stored.cast(pa.float64())
    return list(stored.to_pylist())


def _is_stored_as(kind: Kind, stored: pa.DataType) -> bool:
    """Whether a column of this type can hold values of the kind."""
    types = pa.types
    is_text = types.is_string(stored) or types.is_large_string(stored)
    if kind is Kind.TEXT:
        return is_text
    if kind is Kind.NAME:
        return is_text or types.is_integer(stored)
    if kind is Kind.FLAG:
        return types.is_boolean(stored)
    return types.is_integer(stored) or types.is_floating(stored)


def _fits(kind: Kind, stored: pa.ChunkedArray) -> pa.ChunkedArray:
    """Of each value whether it is of the kind, in a column that can hold such values."""
    if kind is Kind.WHOLE_NUMBER:
        # Rounding leaves these integers as they are, and those that it changes stay too large.
        number = stored.cast(pa.float64(), safe=False)
        is_small = pc.less_equal(pc.abs(number), float(_LARGEST_WHOLE_NUMBER))
        return pc.and_(is_small, pc.equal(pc.floor(number), number))
    if kind is Kind.NUMBER and pa.types.is_floating(stored.type):
        return pc.is_finite(stored)
    return pc.is_valid(stored)


def read_matrices(paths: Sequence[Path], column: str, rows: Sequence[int]) -> Iterator[np.ndarray]:
    """float64 [channels, samples] of these rows of all files, counted through; `rows` ascends. Few rows are held.

    Raises UserError naming file and row where the column has no list of channels of equal length.
    """
    first, wanted = 0, iter(rows)
    row = next(wanted, None)
    for path in paths:
        file = open_parquet(path)
        end = first + file.metadata.num_rows
        start = first
        # Row groups are skipped where nothing is wanted of them.
        for group in range(file.num_row_groups):
            length = file.metadata.row_group(group).num_rows
            if row is not None and row < start + length:
                inside = start
                for batch in file.iter_batches(batch_size=_BATCH_ROWS, row_groups=[group], columns=[column]):
                    while row is not None and row < inside + len(batch):
                        yield _matrix(batch.column(0)[row - inside], f"{path}, row {row - first}: {column!r}")
                        row = next(wanted, None)
                    inside += len(batch)
            start += length
        first = end


def _matrix(value: pa.Scalar, where: str) -> np.ndarray:
    channels = getattr(value, "values", None)
    if channels is None or len(channels) == 0 or not hasattr(channels, "value_lengths"):
        raise UserError(f"{where} is no list of channels.")
    if len(set(channels.value_lengths().to_pylist())) != 1:
        raise UserError(f"{where} has channels of different lengths.")
    flat = channels.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, dtype=np.float64).reshape(len(channels), -1)


def read_text_mapping(path: Path) -> dict[str, str]:
    """A JSON object whose values are texts."""
    try:
        raw = read_json(path, limit=_MAX_JSON_BYTES)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}.") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}.") from None
    if not isinstance(raw, dict) or not all(isinstance(value, str) for value in raw.values()):
        raise UserError(f"{path} must be a JSON object whose values are texts.")
    return raw
