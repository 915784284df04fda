"""index.parquet and stimuli.parquet: written one row group at a time, read with every value checked."""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.limits import MAX_ROW_BYTES
from neuroimagen.data_shards.common.reading import open_file, reason
from neuroimagen.data_shards.format.parquet import check_texts, plain_texts
from neuroimagen.data_shards.format.schema import SPLITS
from neuroimagen.data_shards.format.tar import is_valid_key

ROWS_PER_GROUP = 65_536


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
            # On a full disk writing the footer fails as well; the file is removed in any case.
            with contextlib.suppress(OSError):
                self._writer.close()


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_table(path: Path, schema: pa.Schema, *, num_rows: int, sha256: str, columns: list[str]) -> pa.Table:
    """Read columns of a parquet file after checking its digest, schema and size.

    Raises UserError naming the file and what differs; no value of a wrong file reaches the caller.
    """
    texts = [field.name for field in schema if field.type == pa.string()]
    with _checked_file(path, schema, num_rows=num_rows, sha256=sha256, repeating=texts) as file:
        return plain_texts(file.read(columns=columns), where=str(path))


def read_row_groups(
    path: Path, schema: pa.Schema, *, num_rows: int, sha256: str, columns: list[str], repeating: list[str]
) -> Iterator[pa.Table]:
    """The same, one row group at a time, so that checks work on values that are in the processor's caches.

    Text columns named in `repeating` are returned dictionary-encoded: no text is made for every row.
    """
    with _checked_file(path, schema, num_rows=num_rows, sha256=sha256, repeating=repeating) as file:
        for group in range(file.num_row_groups):
            # One thread per column would cost more than it gains on 65,536 rows.
            table = file.read_row_group(group, columns=columns, use_threads=False)
            check_texts(table, where=str(path))
            yield table


@contextlib.contextmanager
def _checked_file(
    path: Path, schema: pa.Schema, *, num_rows: int, sha256: str, repeating: list[str] | None = None
) -> Iterator[pq.ParquetFile]:
    # The digest is checked first: bytes that the writer did not write never reach the parquet decoder.
    try:
        found = file_sha256(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}. The data set is incomplete.") from None
    if found != sha256:
        raise UserError(
            f"{path} is damaged or belongs to another data set: its SHA-256 is {found[:16]}…, dataset.json says "
            f"{sha256[:16]}…."
        )
    try:
        with pq.ParquetFile(path, read_dictionary=repeating) as file:
            stored = file.schema.to_arrow_schema()  # schema_arrow would show the dictionaries
            if not stored.equals(schema, check_metadata=False):
                raise UserError(f"{path} has columns {stored.names}; expected {schema.names} of fixed types.")
            if file.metadata.num_rows != num_rows:
                raise UserError(f"{path} has {file.metadata.num_rows} rows; dataset.json says {num_rows}.")
            groups = [file.metadata.row_group(group) for group in range(file.metadata.num_row_groups)]
            if sum(group.total_byte_size for group in groups) > 1_000_000 + num_rows * MAX_ROW_BYTES:
                raise UserError(f"{path} would unpack to more than {MAX_ROW_BYTES} bytes per row; it is refused.")
            if sum(group.num_rows for group in groups) != num_rows:
                raise UserError(f"{path} is damaged: its row groups do not add up to {num_rows} rows.")
            yield file
    except (pa.ArrowException, OSError, ValueError, LookupError) as error:
        raise UserError(f"{path} is not a readable parquet file: {reason(error)}.") from None


def numpy_column(table: pa.Table, name: str) -> np.ndarray:
    """A numeric column as a NumPy array of its own type, not copied if it is one contiguous array.

    Raises UserError if it holds nulls.
    """
    column = table.column(name)
    if column.null_count:
        raise UserError(f"column {name!r} of the table holds {column.null_count} nulls.")
    pieces = [_values(chunk) for chunk in column.chunks]
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces or [np.empty(0, column.type.to_pandas_dtype())])


def _values(array: pa.Array) -> np.ndarray:
    """The numbers of an array without nulls, not copied. Arrow's to_numpy would import pandas, which takes 0.5 s."""
    dtype = np.dtype(array.type.to_pandas_dtype())
    if len(array) == 0:
        return np.empty(0, dtype)
    return np.frombuffer(array.buffers()[1], dtype, count=len(array), offset=array.offset * dtype.itemsize)


def split_codes(table: pa.Table, *, where: str) -> np.ndarray:
    """The split column, dictionary-encoded, as int8 positions in SPLITS."""
    codes = {name: code for code, name in enumerate(SPLITS)}
    pieces = []
    for column in table.column("split").chunks:
        known = np.array([codes.get(name, -1) for name in column.dictionary.to_pylist()], dtype=np.int8)
        if column.null_count or (known < 0).any():
            raise UserError(f"{where}: column 'split' holds values other than {SPLITS}.")
        pieces.append(known[_values(column.indices)])
    return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int8)


def name_codes(table: pa.Table, name: str, codes: dict[str, int], *, where: str) -> np.ndarray:
    """A dictionary-encoded column of names as int32 codes; −1 stands for the empty name.

    A name that is not in `codes` gets the next number there.
    """
    pieces = []
    for column in table.column(name).chunks:
        if column.null_count:
            raise UserError(f"{where}: column {name!r} holds {column.null_count} nulls.")
        names = column.dictionary.to_pylist()
        known = np.array([codes.setdefault(each, len(codes)) if each else -1 for each in names], dtype=np.int32)
        pieces.append(known[_values(column.indices)])
    return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int32)


def check_locations(
    table: pa.Table,
    *,
    shard_bytes: Sequence[int] | np.ndarray,
    where: str,
    expected_size: int | None = None,
    first_row: int = 0,
) -> None:
    """Raise UserError unless every sample lies inside its shard, on a tar block, and has the expected size.

    shard_bytes: the size of each shard. first_row: number of the table's first row, for the message.
    """
    shard, offset, size = (numpy_column(table, name) for name in ("shard", "offset", "size"))
    if len(shard) == 0:
        return
    limits = np.asarray(shard_bytes, dtype=np.int64)
    if shard.min() < 0 or shard.max() >= len(limits):
        raise UserError(
            f"{where}: shard numbers run from {shard.min()} to {shard.max()}, there are {len(limits)} shards."
        )
    # offset + size could overflow; limit - offset cannot, where the offset is not negative.
    wrong = (offset < 512) | (offset & 511 != 0) | (size <= 0) | (size > limits[shard] - offset)
    if expected_size is not None:
        wrong |= size != expected_size
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise UserError(
            f"{where}: row {first_row + row} claims {size[row]} bytes at offset {offset[row]} of shard {shard[row]}, "
            f"which is impossible: that shard has {limits[shard[row]]} bytes."
        )


def check_range(values: np.ndarray, *, low: int, high: int, what: str, where: str) -> None:
    """Raise UserError unless low <= value < high everywhere."""
    if len(values) and (values.min() < low or values.max() >= high):
        raise UserError(f"{where}: {what} runs from {values.min()} to {values.max()}; expected {low}..{high - 1}.")


def check_stimulus_texts(table: pa.Table, *, where: str) -> None:
    """Raise UserError unless keys are usable in tar names and unique, and extensions are those of images."""
    keys = table.column("key").to_pylist()
    if invalid := [key for key in keys if not is_valid_key(key)]:
        raise UserError(f"{where}: stimulus key {invalid[0][:100]!r} is not allowed.")
    if len(set(keys)) != len(keys):
        raise UserError(f"{where}: stimulus keys repeat.")
    if extensions := set(table.column("extension").to_pylist()) - {"jpg", "png"}:
        raise UserError(f"{where}: image type {sorted(extensions)[0]!r} is not allowed.")
