"""Tables that published data sets have beside their EEG: Parquet, and JSON objects of texts."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.reading import read_json
from neuroimagen.data_shards.format.parquet import open_parquet, read_parquet_table

_MAX_JSON_BYTES = 64 << 20
_BATCH_ROWS = 64


def read_parquet(paths: Sequence[Path], columns: Sequence[str], *, also: Sequence[str] = ()) -> pa.Table:
    """These columns of Parquet files, one file after the other.

    also: columns that must be there, and are not read. Raises UserError naming file or column.
    """
    tables = []
    for path in paths:
        file = _opened(path)
        if missing := [name for name in (*columns, *also) if name not in file.schema_arrow.names]:
            raise UserError(f"{path} has no column {missing[0]!r}; it has {', '.join(file.schema_arrow.names)}.")
        tables.append(read_parquet_table(path, columns))
    return pa.concat_tables(tables, promote_options="default")


def parquet_columns(path: Path) -> list[str]:
    """The names of a file's columns."""
    return list(_opened(path).schema_arrow.names)


def read_matrices(paths: Sequence[Path], column: str, rows: Sequence[int]) -> Iterator[np.ndarray]:
    """float64 [channels, samples] of these rows of all files, counted through; `rows` ascends. Few rows are held.

    Raises UserError naming file and row where the column has no list of channels of equal length.
    """
    first, wanted = 0, iter(rows)
    row = next(wanted, None)
    for path in paths:
        file = _opened(path)
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


def _opened(path: Path) -> Any:
    return open_parquet(path)


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
