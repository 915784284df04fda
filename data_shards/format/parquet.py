"""Parquet files of strangers: opened with bounds, and read so that no text unfolds to more than a limit.

A text that a million rows share lies in the file once, in a dictionary. Read as plain text it is made for every row: a
file of a few kilobytes can fill any memory. So texts are read as dictionaries, measured, and only then made.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.limits import MAX_CELL_BYTES, MAX_ROW_BYTES, MAX_ROW_GROUP_BYTES
from neuroimagen.data_shards.common.reading import reason, require_file

_FREE_BYTES = 1_000_000
"""Of a table, whatever its number of rows."""


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a file whose row groups fit into memory. Text columns are read as dictionaries; see `read_texts`.

    Raises UserError naming the file.
    """
    try:
        require_file(path)
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
        texts = [
            field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
        ]
        file = pq.ParquetFile(path, read_dictionary=texts)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"cannot read {path}: {reason(error)}.") from None
    for number in range(file.num_row_groups):
        size = file.metadata.row_group(number).total_byte_size
        if size > MAX_ROW_GROUP_BYTES:
            raise UserError(f"{path}: row group {number} would unpack to {size:,} bytes; it is refused.")
    return file


def read_parquet_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Columns of a file, texts as plain text. Raises UserError naming the file where it is damaged or unfolds."""
    file = open_parquet(path)
    try:
        return plain_texts(file.read(columns=None if columns is None else list(columns)), where=str(path))
    except (OSError, ValueError, LookupError, pa.ArrowException) as error:
        raise UserError(f"cannot read {path}: {reason(error)}.") from None


def plain_texts(table: pa.Table, *, where: str) -> pa.Table:
    """The table with its dictionary-encoded texts as plain texts, after they were measured."""
    check_texts(table, where=where)
    for place, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            plain = pa.field(field.name, field.type.value_type, field.nullable)
            table = table.set_column(place, plain, table.column(place).cast(field.type.value_type))
    return table


def check_texts(table: pa.Table, *, where: str) -> None:
    """Raise UserError naming the column if a text, or all of them together, take more bytes than texts have."""
    for name in table.column_names:
        total = 0
        for chunk in table.column(name).chunks:
            if not pa.types.is_dictionary(chunk.type) or len(chunk) == 0 or len(chunk.dictionary) == 0:
                continue
            chunk.dictionary.validate(full=True)  # UTF-8; raises ArrowInvalid
            lengths = pc.binary_length(chunk.dictionary)
            longest = pc.max(lengths).as_py() or 0
            if longest > MAX_CELL_BYTES:
                raise UserError(
                    f"{where}: a text in column {name!r} has {longest:,} bytes; at most {MAX_CELL_BYTES:,}."
                )
            total += _sum(pc.take(lengths, chunk.indices))
        if total > _FREE_BYTES + len(table) * MAX_ROW_BYTES:
            raise UserError(f"{where}: the texts in column {name!r} unfold to {total:,} bytes; they are refused.")


def _sum(values: Any) -> int:
    return int(pc.sum(values).as_py() or 0)
