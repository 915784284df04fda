"""Tables that published data sets have beside their EEG: Parquet, and JSON objects of texts."""

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from neuroimagen.data_shards.common.errors import UserError

_MAX_JSON_BYTES = 64 << 20


def read_parquet(paths: Sequence[Path], required: Sequence[str]) -> pa.Table:
    """The rows of Parquet files, one file after the other. Raises UserError naming file or column."""
    import pyarrow.parquet as pq

    tables = []
    for path in paths:
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"cannot read {path}: {str(error).splitlines()[0]}") from None
        if missing := [name for name in required if name not in table.column_names]:
            raise UserError(f"{path} has no column {missing[0]!r}; it has {', '.join(table.column_names)}.")
        tables.append(table)
    return pa.concat_tables(tables, promote_options="default")


def read_text_mapping(path: Path) -> dict[str, str]:
    """A JSON object whose values are texts."""
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise UserError(f"{path} is {path.stat().st_size:,} bytes; at most 64 MiB are read.")
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}.") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}.") from None
    if not isinstance(raw, dict) or not all(isinstance(value, str) for value in raw.values()):
        raise UserError(f"{path} must be a JSON object whose values are texts.")
    return raw
