"""An Index made of columns, for tests of what is computed from it."""

import dataclasses

import numpy as np

from neuroimagen.data_shards.dataset.dataset import Index


def make_index(**columns: object) -> Index:
    """An Index whose other columns are unknown or zero; codes name sessions s0, s1 … and recordings r0, r1 …"""
    size = len(next(iter(columns.values())))  # type: ignore[call-overload]
    unknown = {"block": -1, "order": -1, "session_code": -1, "recording_code": -1, "onset_s": np.nan, "subject": 1}
    names = [field.name for field in dataclasses.fields(Index) if field.name not in ("sessions", "recordings")]
    filled = {name: np.asarray(columns.get(name, np.full(size, unknown.get(name, 0)))) for name in names}
    for name in ("session_code", "recording_code"):
        filled[name] = filled[name].astype(np.int32)
    sessions, recordings = (
        tuple(f"{letter}{number}" for number in range(int(filled[name].max()) + 1))
        for letter, name in (("s", "session_code"), ("r", "recording_code"))
    )
    return Index(**filled, sessions=sessions, recordings=recordings)
