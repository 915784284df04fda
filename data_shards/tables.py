"""index.parquet and stimuli.parquet: written a row group at a time, read with every value checked."""

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from neuroimagen.data_shards.errors import UserError
from neuroimagen.data_shards.schema import SPLITS
from neuroimagen.data_shards.tar import is_valid_key

ROWS_PER_GROUP = 65_536
_MAX_BYTES_PER_ROW = 4096
"""More than this, uncompressed, is no table of ours (captions are the longest column)."""


class TableWriter:
    """Appends rows to a parquet file in bounded memory."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._columns: dict[str, list[Any]] = {name: [] for name in schema.names}
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self.num_rows = 0

    def add(self, row: Mapping[str, Any]) -> None:
        for name, values in self._columns.items():
            values.append(row[name])
        self.num_rows += 1
        if self.num_rows % ROWS_PER_GROUP == 0:
            self._flush()

    def close(self) -> None:
        if self._columns[self._schema.names[0]]:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        self._writer.write_table(pa.table(self._columns, schema=self._schema))
        for values in self._columns.values():
            values.clear()

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            # On a full disk writing the footer fails as well; the file is thrown away in any case.
            with contextlib.suppress(OSError):
                self._writer.close()


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_table(path: Path, schema: pa.Schema, *, num_rows: int, sha256: str, columns: list[str]) -> pa.Table:
    """Read columns of a parquet file after checking its digest, schema and size.

    Raises UserError naming the file and what differs; nothing of a wrong file reaches the caller.
    """
    try:
        found = file_sha256(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}. The data set is incomplete.") from None
    if found != sha256:
        raise UserError(
            f"{path} is damaged or another data set's: SHA-256 {found[:16]}…, dataset.json says {sha256[:16]}…."
        )
    try:
        with pq.ParquetFile(path) as file:
            if not file.schema_arrow.equals(schema, check_metadata=False):
                raise UserError(
                    f"{path} has columns {file.schema_arrow.names}; expected {schema.names} of fixed types."
                )
            if file.metadata.num_rows != num_rows:
                raise UserError(f"{path} has {file.metadata.num_rows} rows; dataset.json says {num_rows}.")
            groups = [file.metadata.row_group(group) for group in range(file.metadata.num_row_groups)]
            if sum(group.total_byte_size for group in groups) > 1_000_000 + num_rows * _MAX_BYTES_PER_ROW:
                raise UserError(f"{path} would unpack to an absurd size; it is refused.")
            return file.read(columns=columns)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path} is not a readable parquet file: {error}") from None


def numpy_column(table: pa.Table, name: str) -> np.ndarray:
    """A numeric column as a NumPy array of its own type; refuses nulls."""
    column = table.column(name)
    if column.null_count:
        raise UserError(f"column {name!r} of the table holds {column.null_count} nulls.")
    return column.to_numpy()


def split_codes(table: pa.Table, *, where: str) -> np.ndarray:
    """The split column as int8 positions in SPLITS."""
    import pyarrow.compute as pc

    codes = pc.index_in(table.column("split"), value_set=pa.array(SPLITS))
    if codes.null_count:
        raise UserError(f"{where}: column 'split' holds values other than {SPLITS}.")
    return codes.to_numpy().astype(np.int8)


def check_locations(
    table: pa.Table, *, shard_bytes: tuple[int, ...], where: str, expected_size: int | None = None
) -> None:
    """Every sample must lie inside its shard, on a tar block, and have the expected size."""
    shard, offset, size = (numpy_column(table, name) for name in ("shard", "offset", "size"))
    if len(shard) == 0:
        return
    limits = np.asarray(shard_bytes, dtype=np.int64)
    if shard.min() < 0 or shard.max() >= len(limits):
        raise UserError(
            f"{where}: shard numbers run from {shard.min()} to {shard.max()}, there are {len(limits)} shards."
        )
    wrong = (offset < 512) | (offset % 512 != 0) | (size <= 0) | (offset + size > limits[shard])
    if expected_size is not None:
        wrong |= size != expected_size
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise UserError(
            f"{where}: row {row} claims {size[row]} bytes at offset {offset[row]} of shard {shard[row]}, which "
            f"cannot be ({limits[shard[row]]} bytes in that shard)."
        )


def check_range(values: np.ndarray, *, low: int, high: int, what: str, where: str) -> None:
    """Raise UserError unless low <= value < high everywhere."""
    if len(values) and (values.min() < low or values.max() >= high):
        raise UserError(f"{where}: {what} runs from {values.min()} to {values.max()}; expected {low}..{high - 1}.")


def check_stimulus_texts(table: pa.Table, *, where: str) -> None:
    """Keys must be usable in tar names and unique; extensions must be pictures'."""
    keys = table.column("key").to_pylist()
    if invalid := [key for key in keys if not is_valid_key(key)]:
        raise UserError(f"{where}: stimulus key {invalid[0][:100]!r} is not allowed.")
    if len(set(keys)) != len(keys):
        raise UserError(f"{where}: stimulus keys repeat.")
    if extensions := set(table.column("extension").to_pylist()) - {"jpg", "png"}:
        raise UserError(f"{where}: picture type {sorted(extensions)[0]!r} is not allowed.")
