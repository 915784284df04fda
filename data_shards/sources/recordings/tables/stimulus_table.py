"""The table of what was shown: one row for each kind of event (codes), or one for each occurrence (trials)."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.format.schema import SPLITS
from neuroimagen.data_shards.sources.readers.csv_table import check_header
from neuroimagen.data_shards.sources.recordings.tables.event_names import event_key, event_keys
from neuroimagen.data_shards.sources.recordings.tables.text_table import read_text_table


@dataclasses.dataclass(frozen=True, kw_only=True)
class StimulusTable:
    """A table of text columns, of which image and class are filled in every row."""

    where: str
    """How messages call it: its path."""
    columns: pa.Table
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.columns)

    def __contains__(self, name: str) -> bool:
        return name in self.columns.column_names

    def text(self, name: str) -> pa.ChunkedArray:
        return self.columns[name]


def read_stimulus_table(path: Path, required: Sequence[str], optional: Sequence[str]) -> StimulusTable:
    """Read and check a table; columns that are not used are named in its notes.

    Raises UserError naming column and line if a required column is missing or empty in a row, a split is not train,
    val or test, or an unknown column is close to a known one: a misspelt `subject` would make one person of all.
    """
    return check_stimulus_table(str(path), read_text_table(path), required, optional)


def check_stimulus_table(
    where: str, table: pa.Table, required: Sequence[str], optional: Sequence[str]
) -> StimulusTable:
    """See `read_stimulus_table`."""
    names = table.column_names
    check_header(where, names, required, optional)
    unknown = [name for name in names if name not in (*required, *optional)]
    for name in required:
        empty = np.flatnonzero(pc.equal(table[name], "").to_numpy(zero_copy_only=False))
        if empty.size:
            raise UserError(f"{where}, line {empty[0] + 2}: {name} is empty.")
    if "split" in names:
        wrong = [text for text in pc.unique(table["split"]).to_pylist() if text not in SPLITS]
        if wrong:
            line = pc.index(table["split"], wrong[0]).as_py() + 2
            raise UserError(f"{where}, line {line}: split {wrong[0]!r} is not one of {', '.join(SPLITS)}.")
    notes = (f"{where}: not used: column{'s' * (len(unknown) > 1)} {', '.join(map(repr, unknown))}",) if unknown else ()
    return StimulusTable(where=where, columns=table, notes=notes)


def rows_of_events(table: StimulusTable) -> dict[str, int]:
    """Key of each event of a table of codes → its row. Raises UserError if two rows name the same event."""
    keys = [event_key(text) for text in table.text("event").to_pylist()]
    rows: dict[str, int] = {}
    for row, key in enumerate(keys):
        if rows.setdefault(key, row) != row:
            first, second = (table.text("event")[place].as_py() for place in (rows[key], row))
            same = "" if first == second else f" ({first!r} and {second!r} are the same event)"
            raise UserError(
                f"{table.where}: an event has two rows: lines {rows[key] + 2} and {row + 2}{same}. If one code shows "
                "several images, give a table with one row for each occurrence: --trials."
            )
    return rows


def keys_of_trials(table: StimulusTable) -> np.ndarray | None:
    """Key of the event of each trial; None if the table has no column event."""
    return event_keys(table.text("event")) if "event" in table else None
