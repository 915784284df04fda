"""The rows of a BIDS recording's events.tsv."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pyarrow as pa

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.recordings.files.opening import Opened, sidecar
from neuroimagen.data_shards.sources.recordings.tables.event_names import event_key
from neuroimagen.data_shards.sources.recordings.tables.text_table import read_text_table

_COLUMNS = ("trial_type", "value", "stim_file")
"""Columns that name events, in the order in which they are tried; then all others."""


def events_tsv(opened: Opened) -> tuple[Path, pa.Table] | None:
    """The recording's events.tsv as text columns; None where there is none. It must have a column onset."""
    path = sidecar(opened.file, "events")
    if path is None:
        return None
    table = read_text_table(path)
    if "onset" not in table.column_names:
        raise UserError(f"{path} has no column 'onset'; its columns are {', '.join(table.column_names)}.")
    return path, table


def onsets_s(table: pa.Table, column: str, where: object) -> np.ndarray:
    """A column of numbers as float64; "n/a" and empty fields are NaN. Raises UserError naming line and text."""
    texts = table[column].to_numpy(zero_copy_only=False)
    texts = np.where((texts == "n/a") | (texts == ""), "nan", texts)
    try:
        return texts.astype(np.float64)
    except ValueError:
        for line, text in enumerate(texts, start=2):
            try:
                float(text)
            except ValueError:
                raise UserError(f"{where}, line {line}: {column} {text!r} is not a number.") from None
        raise


def sidecar_events(opened: Opened, wanted: Collection[str]) -> list[tuple[int, str]]:
    """(sample, key) of the rows of events.tsv, by the first column that holds one of the `wanted` keys."""
    found = events_tsv(opened)
    if found is None:
        return []
    path, table = found
    onset = onsets_s(table, "onset", path)
    names = [name for name in _COLUMNS if name in table.column_names]
    names += [name for name in table.column_names if name not in (*names, "onset", "duration", "sample")]
    for name in names:
        keys = [event_key(text) for text in table[name].to_pylist()]
        if not wanted or not set(keys).isdisjoint(wanted):
            break
    else:
        return []
    # A time is taken as MNE takes it: the nearest sample.
    return [
        (round(time * opened.sfreq), key)
        for time, key in zip(onset.tolist(), keys, strict=True)
        if time == time and key not in ("", "n/a")
    ]
