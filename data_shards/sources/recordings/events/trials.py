"""Joins a table of trials, one row for each occurrence, to recordings: by onset, by sample, or by order."""

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.recordings.events.reading import Events, read_events
from neuroimagen.data_shards.sources.recordings.events.sidecar import onsets_s
from neuroimagen.data_shards.sources.recordings.files.opening import Opened, RecordingFile
from neuroimagen.data_shards.sources.recordings.tables.event_names import event_key
from neuroimagen.data_shards.sources.recordings.tables.stimulus_table import StimulusTable, keys_of_trials

OPTIONAL = ("event", "onset", "sample", "recording", "subject", "session", "run", "task", "block", "split", "caption")
_ENTITIES = ("subject", "session", "run", "task")
JOINS = ("onset", "sample", "order")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Joined:
    """Trials of one recording in the order of the table."""

    row: np.ndarray
    """int64: rows of the table."""
    sample: np.ndarray
    """int64: sample of the recording, or number of the epoch."""


def rows_of_recordings(
    table: StimulusTable, files: Sequence[RecordingFile], notes: list[str]
) -> dict[RecordingFile, np.ndarray]:
    """The rows of each recording, by the columns recording, or subject, session, run and task.

    Recordings without rows are left out with a note, as are rows without a recording. Raises UserError if a row
    belongs to two recordings, or nothing says to which it belongs.
    """
    columns = ["recording"] if "recording" in table else [name for name in _ENTITIES if name in table]
    if columns != ["recording"]:
        unsaid = [name for name in columns if all(_label(file, name) is None for file in files)]
        columns = [name for name in columns if name not in unsaid]
        if len(files) > 1 and not columns:
            raise UserError(
                f"nothing says to which of {len(files)} recordings a row of {table.where} belongs. Add a column "
                "'recording' with the files' names (or subject, session and run, if the files' names have them)."
            )
    if not columns:
        return {files[0]: np.arange(len(table))}
    groups = _groups(table, columns)
    found: dict[RecordingFile, list[np.ndarray]] = {}
    lost: list[tuple[str, int]] = []
    for values, rows in groups.items():
        matches = [file for file in files if _matches(file, columns, values)]
        described = ", ".join(f"{name} {value}" for name, value in zip(columns, values, strict=True))
        if len(matches) > 1:
            raise UserError(
                f"{table.where}: the rows of {described} belong to {len(matches)} recordings ({matches[0].name}, "
                f"{matches[1].name}{' …' if len(matches) > 2 else ''}). Add a column that tells them apart: session, "
                "run, or recording."
            )
        if matches:
            found.setdefault(matches[0], []).append(rows)
        else:
            lost.append((described, len(rows)))
    if not found:
        raise UserError(
            f"no row of {table.where} belongs to one of the recordings ({files[0].name}{' …' if files[1:] else ''}); "
            f"its first rows are of {lost[0][0] if lost else 'nothing'}."
        )
    if lost:
        shown = "; ".join(f"{count} of {described}" for described, count in lost[:10]) + (" …" if lost[10:] else "")
        notes.append(f"{table.where}: {sum(count for _, count in lost)} rows belong to no recording: {shown}")
    if without := [file.name for file in files if file not in found]:
        shown = ", ".join(without[:10]) + (" …" if without[10:] else "")
        notes.append(f"{len(without)} recordings have no row in {table.where} and are left out: {shown}")
    return {file: np.sort(np.concatenate(found[file])) for file in files if file in found}


def _groups(table: StimulusTable, columns: Sequence[str]) -> dict[tuple[str, ...], np.ndarray]:
    """Values of the columns → rows, in the order of first appearance."""
    code = np.zeros(len(table), dtype=np.int64)
    values: list[list[str]] = []
    for name in columns:
        encoded = pc.dictionary_encode(table.text(name).combine_chunks())
        encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
        values.append(encoded.dictionary.to_pylist())
        code = code * len(values[-1]) + encoded.indices.to_numpy()
    order = np.argsort(code, kind="stable")
    starts = np.flatnonzero(np.diff(code[order], prepend=-1))
    groups = {}
    for rows in np.split(order, starts[1:]):
        rest, parts = int(code[rows[0]]), []
        for known in reversed(values):
            rest, place = divmod(rest, len(known))
            parts.append(known[place])
        groups[tuple(reversed(parts))] = rows
    return groups


def _label(file: RecordingFile, name: str) -> str | None:
    return {"subject": file.subject, "session": file.session, "run": file.run, "task": file.task}[name]


def _matches(file: RecordingFile, columns: Sequence[str], values: Sequence[str]) -> bool:
    if columns[0] == "recording":
        forms = {file.name, file.path.name, file.path.stem, file.name.removesuffix(file.path.suffix)}
        return values[0] in forms or values[0].removeprefix("./") in forms
    prefixes = {"subject": "sub-", "session": "ses-", "run": "run-", "task": "task-"}
    return all(
        event_key(value.removeprefix(prefixes[name])) == event_key(_label(file, name) or "")
        for name, value in zip(columns, values, strict=True)
    )


def join_trials(
    table: StimulusTable,
    rows: np.ndarray,
    opened: Opened,
    notes: list[str],
    *,
    how: str | None = None,
    trial_events: Sequence[str] = (),
    origin: str = "all",
    mask: int | None = None,
) -> Joined:
    """Where each of a recording's trials began.

    `how`: one of JOINS; None: by onset or sample if the table has that column, else by order. By order, the recording
    must have as many events as the table has rows, of the same names where the table has a column event.
    `trial_events`: the events that count; by default those of the table's column event, else all.
    """
    how = how or next((name for name in ("onset", "sample") if name in table and not opened.is_epochs), "order")
    if how in ("onset", "sample"):
        if how not in table:
            raise UserError(f"{table.where} has no column {how!r} to join by.")
        if opened.is_epochs:
            raise UserError(
                f"{opened.file.path} holds epochs, whose trials can be joined by order only (--join order)."
            )
        times = onsets_s(pa.table({how: pc.take(table.text(how), pa.array(rows))}), how, table.where)
        return _at_times(rows, times * (opened.sfreq if how == "onset" else 1.0), opened, notes, how)
    keys = keys_of_trials(table)
    own = None if keys is None else keys[rows]
    wanted = {event_key(name) for name in trial_events} or (set() if own is None else set(own.tolist()))
    events = read_events(opened, wanted, notes, origin=origin, mask=mask)
    events = _as_recorded(events, rows, opened, notes)
    if len(events) != len(rows):
        counts = Counter(events.key.tolist())
        shown = ", ".join(f"{name!r} × {count}" for name, count in counts.most_common(10))
        raise UserError(
            f"{opened.file.path} has {len(events)} events ({shown}{' …' if len(counts) > 10 else ''}) and "
            f"{table.where} "
            f"has {len(rows)} rows for it, so they cannot be joined by order. Name the events that are trials with "
            "--trial-events, correct the table, or give it a column 'onset' (seconds) or 'sample'."
        )
    if own is not None and (wrong := np.flatnonzero((own != events.key) & (events.sample >= 0))).size:
        first = wrong[0]
        raise UserError(
            f"{table.where}, line {rows[first] + 2}: event {own[first]!r}, but event {first + 1} of "
            f"{opened.file.path} is "
            f"{events.key[first]!r} ({wrong.size} of {len(rows)} differ). The table belongs to another recording, or "
            "its "
            "rows stand in another order."
        )
    return Joined(row=rows, sample=events.sample)


def _at_times(rows: np.ndarray, samples: np.ndarray, opened: Opened, notes: list[str], how: str) -> Joined:
    known = np.isfinite(samples)
    if not known.all():
        notes.append(f"{opened.file.name}: {int((~known).sum())} of {len(rows)} rows have no {how} and are left out")
    # As MNE: the nearest sample.
    return Joined(row=rows[known], sample=np.rint(samples[known]).astype(np.int64))


def _as_recorded(events: Events, rows: np.ndarray, opened: Opened, notes: list[str]) -> Events:
    """Of an epochs file from which epochs were dropped: the rest keeps its places among all that were recorded."""
    if not opened.is_epochs or len(events) == len(rows) or len(events) != len(opened.data):
        return events
    selection, num_recorded = opened.data.selection, len(opened.data.drop_log)
    if num_recorded != len(rows):
        return events
    notes.append(
        f"{opened.file.name}: {num_recorded - len(events)} of {num_recorded} epochs were dropped before the file was "
        "saved; their rows are left out"
    )
    sample = np.full(num_recorded, -1, dtype=np.int64)
    sample[selection] = events.sample
    key = np.full(num_recorded, "", dtype=object)
    key[selection] = events.key
    return Events(sample=sample, key=key)
