"""The events of one recording: annotations, triggers and rows of events.tsv, under comparable names."""

import dataclasses
from collections import Counter
from collections.abc import Collection

import numpy as np

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.recordings.channels.kinds import kind_by_label
from neuroimagen.data_shards.sources.recordings.events.sidecar import sidecar_events
from neuroimagen.data_shards.sources.recordings.events.triggers import events_of_line, read_line
from neuroimagen.data_shards.sources.recordings.files.opening import Opened
from neuroimagen.data_shards.sources.recordings.files.pieces import annotation_samples, is_discontinuity
from neuroimagen.data_shards.sources.recordings.tables.event_names import event_key

SOURCES = ("all", "annotations", "triggers", "events.tsv")


class NoEventsError(UserError):
    """A recording has none of the events that are looked for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Events:
    """Events in the order of time."""

    sample: np.ndarray
    """int64, from the recording's first sample; of an epochs file the number of the epoch."""
    key: np.ndarray
    """object: `event_key` of each event's name."""

    def __len__(self) -> int:
        return len(self.sample)


def read_events(
    opened: Opened, wanted: Collection[str], notes: list[str], *, origin: str = "all", mask: int | None = None
) -> Events:
    """The events of a recording.

    `wanted`: keys of the events that are looked for; others are counted in a note and left out. Empty: all events.
    An event that annotations, triggers or events.tsv have at the same sample is taken once. `origin`: one of SOURCES.
    """
    if opened.is_epochs:
        return _events_of_epochs(opened, wanted, notes)
    name = opened.file.name
    found: dict[str, Events] = {}
    if origin in ("all", "triggers"):  # first, because their times are the most exact
        found |= _triggers(opened, wanted, notes, mask)
    if origin in ("all", "annotations"):
        found["annotations"] = _annotations(opened)
    if origin in ("all", "events.tsv"):
        found["events.tsv"] = Events(**_as_columns(sidecar_events(opened, wanted)))
    taken = {source: _only(events, wanted) if wanted else events for source, events in found.items()}
    taken = {source: events for source, events in taken.items() if len(events)}
    if not taken:
        raise NoEventsError(
            f"{opened.file.path} has none of the table's events; {_seen(found)}. Write the events' names into the "
            "table "
            "as they stand there."
        )
    for source, events in found.items():
        others = Counter(key for key in events.key if wanted and key not in wanted)
        if others and source not in SOURCES:  # texts beside the events are usual; codes are what was sent
            notes.append(f"{name}: {sum(others.values())} events on {source} are not in the table: {_counts(others)}")
    return _united(taken, name, notes)


def _united(taken: dict[str, Events], name: str, notes: list[str]) -> Events:
    """Events of all origins by time; one that stands in two of them at the same sample is taken once.

    Raises UserError if two origins have events of one name at different times: they may be the same events, of which
    one origin has the times wrong.
    """
    origins = iter(taken.items())
    first, events = next(origins)
    sample, key = events.sample, events.key
    for origin, others in origins:
        is_new = np.ones(len(others), dtype=bool)
        for event in set(key.tolist()) & set(others.key.tolist()):
            mine, theirs = np.sort(sample[key == event]), np.flatnonzero(others.key == event)
            near = np.searchsorted(mine, others.sample[theirs] - 1)
            # Two origins round the same time to neighbouring samples.
            same = (near < len(mine)) & (mine[np.minimum(near, len(mine) - 1)] <= others.sample[theirs] + 1)
            if same.sum() < min(len(mine), len(theirs)):
                raise UserError(
                    f"{name}: {first} ({len(mine)} times) and {origin} ({len(theirs)} times) have event {event!r}, "
                    "and only "
                    f"{int(same.sum())} of them stand at the same sample, so segments would be cut twice. Choose where "
                    f"events are taken from with --events-from {{{','.join(SOURCES[1:])}}}."
                )
            is_new[theirs[same]] = False
        if num_twice := int((~is_new).sum()):
            notes.append(
                f"{name}: {num_twice} events stand in {first} and {origin} at the same sample; each is taken once"
            )
        sample, key = np.concatenate([sample, others.sample[is_new]]), np.concatenate([key, others.key[is_new]])
    order = np.argsort(sample, kind="stable")
    return Events(sample=sample[order], key=key[order])


def _annotations(opened: Opened) -> Events:
    found = [
        (max(0, round(start)) if start > -1 else -1, event_key(text))
        for start, _, text in annotation_samples(opened.data)
        if not is_discontinuity(text)
    ]
    return Events(**_as_columns([event for event in found if event[0] >= 0]))


def _triggers(opened: Opened, wanted: Collection[str], notes: list[str], mask: int | None) -> dict[str, Events]:
    """Events of each trigger line that has some, by the line's name."""
    codes = {int(key) for key in wanted if key.isdigit()}
    found = {}
    raw = opened.data
    for name, kind in zip(raw.ch_names, raw.get_channel_types(), strict=True):
        is_line = kind == "stim" or (kind in ("eeg", "misc") and kind_by_label(name) == "stim")
        if not is_line or (wanted and not codes):
            continue
        sample, value, first, problem = read_line(raw, name)
        if problem:
            notes.append(f"{opened.file.name}: trigger line {name} was not read: {problem}")
            continue
        triggers = events_of_line(sample, value, first, codes, mask=mask)
        notes.extend(f"{opened.file.name}: trigger line {name}: {note}" for note in triggers.notes)
        if len(triggers.sample):
            keys = np.array([str(code) for code in triggers.code.tolist()], dtype=object)
            found[name] = Events(sample=triggers.sample, key=keys)
    return found


def _events_of_epochs(opened: Opened, wanted: Collection[str], notes: list[str]) -> Events:
    """One event an epoch: its name, or the number of its event where the table has that."""
    epochs = opened.data
    name_of = {code: name for name, code in epochs.event_id.items()}
    codes = epochs.events[:, 2].tolist()
    by_name = [event_key(name_of.get(code, code)) for code in codes]
    by_code = [event_key(code) for code in codes]
    keys = [name if name in wanted or not wanted else code for name, code in zip(by_name, by_code, strict=True)]
    events = Events(sample=np.arange(len(keys)), key=np.array(keys, dtype=object))
    if not wanted:
        return events
    kept = _only(events, wanted)
    if not len(kept):
        raise NoEventsError(
            f"{opened.file.path} has none of the table's events; its epochs are {_counts(Counter(by_name))}."
        )
    if others := Counter(name for name, key in zip(by_name, keys, strict=True) if key not in wanted):
        notes.append(
            f"{opened.file.name}: epochs of {sum(others.values())} events are not in the table: {_counts(others)}"
        )
    return kept


def _as_columns(events: list[tuple[int, str]]) -> dict[str, np.ndarray]:
    keys = np.empty(len(events), dtype=object)
    keys[:] = [key for _, key in events]
    return {"sample": np.array([sample for sample, _ in events], dtype=np.int64), "key": keys}


def _only(events: Events, wanted: Collection[str]) -> Events:
    kept = np.fromiter((key in wanted for key in events.key), dtype=bool, count=len(events))
    return Events(sample=events.sample[kept], key=events.key[kept])


def _seen(found: dict[str, Events]) -> str:
    """What each origin holds, for a message."""
    told = [
        f"{source if source in SOURCES else f'trigger line {source}'}: {_counts(Counter(events.key.tolist()))}"
        for source, events in found.items()
        if len(events)
    ]
    return f"it has {'; '.join(told)}" if told else "it has no annotations and no triggers"


def _counts(counter: Counter) -> str:
    shown = ", ".join(f"{name!r} × {count}" for name, count in counter.most_common(10))
    return shown + (" …" if len(counter) > 10 else "")
