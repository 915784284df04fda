"""Brings the channels of several recordings together: the same, matched by name, or those that all of them have."""

from collections.abc import Sequence

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.recordings.channels.selection import Selection


def joined_channels(
    names: Sequence[str], selections: Sequence[Selection], rule: str, notes: list[str]
) -> list[tuple[int, ...]]:
    """For each recording the positions, among its selection's channels, of the data set's channels, in one order.

    `names`: of the recordings. `rule`: same, by-name or common. The first recording gives order and letters. Raises
    UserError that says which channels differ, and what to do.
    """
    first = selections[0]
    for name, selection in zip(names, selections, strict=True):
        keys = [_key(channel) for channel in selection.names]
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            same = [channel for channel in selection.names if _key(channel) == twice[0]]
            raise UserError(
                f"{name} has channels {' and '.join(map(repr, same))}, which have one name apart from letter case and "
                "blanks. Leave one out with --bad-channels."
            )
    keys_of = [[_key(channel) for channel in selection.names] for selection in selections]
    kept = [key for key in keys_of[0] if rule != "common" or all(key in keys for keys in keys_of)]
    if not kept:
        raise UserError(f"no channel is in all {len(selections)} recordings; {names[0]} has {', '.join(first.names)}.")
    for name, selection, keys in zip(names, selections, keys_of, strict=True):
        if rule == "common":
            continue
        if rule == "same" and selection.names == first.names:
            continue
        lacks = [channel for channel, key in zip(first.names, keys_of[0], strict=True) if key not in keys]
        has = [channel for channel, key in zip(selection.names, keys, strict=True) if key not in keys_of[0]]
        if lacks or has:
            raise UserError(_difference(name, names[0], lacks, has, selection))
        if rule == "same":
            how = "order" if set(selection.names) == set(first.names) else "letters or blanks, and maybe order"
            raise UserError(
                f"{name} has the channels of {names[0]} in another order or other letters ({how} differs: "
                f"{', '.join(selection.names[:8])} and {', '.join(first.names[:8])}). --channels by-name matches "
                "channels by their names and puts them into the order of the first recording."
            )
    if rule == "common":
        _note_left_out(names, selections, keys_of, set(kept), notes)
    positions = [tuple(keys.index(key) for key in kept) for keys in keys_of]
    kinds = [
        tuple(selection.kinds[place] for place in places)
        for selection, places in zip(selections, positions, strict=True)
    ]
    for name, own in zip(names, kinds, strict=True):
        if own != kinds[0]:
            place = next(place for place, (a, b) in enumerate(zip(own, kinds[0], strict=True)) if a != b)
            raise UserError(
                f"channel {first.names[positions[0][place]]!r} is {kinds[0][place]} in {names[0]} and {own[place]} "
                f"in {name}."
            )
    return positions


def _key(name: str) -> str:
    return name.strip().casefold()


def _difference(name: str, first: str, lacks: list[str], has: list[str], selection: Selection) -> str:
    """Which channels differ between two recordings, and what to do about it."""
    told = []
    if lacks:
        reasons = {channel: selection.left_out[channel] for channel in lacks if channel in selection.left_out}
        shown = [
            f"{channel} ({reasons[channel].partition(';')[0]})" if channel in reasons else channel for channel in lacks
        ]
        told.append(f"lacks {', '.join(shown)}")
    if has:
        told.append(f"has {', '.join(has)} beside them")
    remedy = "--channels common takes the channels that all recordings have; --bad-channels leaves channels out of all"
    if any("bad" in selection.left_out.get(channel, "") for channel in lacks):
        remedy += "; --interpolate-bads computes bad ones from their neighbours"
    return f"{name}, compared with {first}, {' and '.join(told)}. {remedy}."


def _note_left_out(
    names: Sequence[str],
    selections: Sequence[Selection],
    keys_of: Sequence[Sequence[str]],
    kept: set[str],
    notes: list[str],
) -> None:
    lost: dict[str, list[str]] = {}
    for name, selection, keys in zip(names, selections, keys_of, strict=True):
        for channel, key in zip(selection.names, keys, strict=True):
            if key not in kept:
                lost.setdefault(key, [channel]).append(name)
    if lost:
        shown = ", ".join(
            f"{channel} (in {len(where)} of {len(names)})" for channel, *where in list(lost.values())[:20]
        )
        notes.append(
            f"{len(lost)} channels that not all recordings have are left out: "
            f"{shown}{' …' if lost.keys() and len(lost) > 20 else ''}"
        )
