"""The events of a trigger line: which changes of its value are events, and under which code.

A *pulsed* line goes back to 0 after each code; a *held* line keeps a code until the next one. On both, every change to
another value but 0 is looked at, also at the first sample and for one sample only. Bits above those that the table's
codes need may belong to another device (a status byte, a response button): a change of the low bits while the high
bits stay is an event of the low code.
"""

import dataclasses
from collections import Counter
from typing import Any

import numpy as np

_CHUNK_SAMPLES = 4_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Triggers:
    """Events of one line."""

    sample: np.ndarray
    """int64, from the recording's first sample, ascending."""
    code: np.ndarray
    """int64."""
    notes: tuple[str, ...]
    """What was passed over and what was read otherwise than it stands, one sentence each."""


def read_line(raw: Any, name: str) -> tuple[np.ndarray, np.ndarray, int, str]:
    """(samples, values) at which a line changes, its first value, and what is wrong with the line, or "".

    Values are whole numbers; negative ones, which 16-bit files have where the highest bit is set, are read as unsigned.
    """
    changes, values = [], []
    before: int | None = None
    first = 0
    for start in range(0, raw.n_times, _CHUNK_SAMPLES):
        line = raw.get_data(picks=[name], start=start, stop=min(start + _CHUNK_SAMPLES, raw.n_times))[0]
        if 0 < np.abs(line).max(initial=0) < 0.01:  # an EDF signal of codes whose unit is written as µV
            line = line * 1e6
        whole = np.rint(line)
        if not np.isfinite(line).all() or np.abs(line - whole).max(initial=0) > 0.05:
            return np.array([], np.int64), np.array([], np.int64), 0, "its values are no whole numbers"
        codes = whole.astype(np.int64)
        codes = np.where(codes < 0, codes & 0xFFFF, codes)
        if before is None:
            first = before = int(codes[0])
        joined = np.concatenate([[before], codes])
        at = np.flatnonzero(np.diff(joined))
        changes.append(at + start)
        values.append(codes[at])
        before = int(codes[-1])
    if not changes:
        return np.array([], np.int64), np.array([], np.int64), 0, "it is empty"
    return np.concatenate(changes), np.concatenate(values), first, ""


def events_of_line(
    sample: np.ndarray, value: np.ndarray, first: int, wanted: set[int], *, mask: int | None
) -> Triggers:
    """The events among the changes of a line (`read_line`).

    `wanted`: the table's codes; they say which bits are the low ones. `mask`: bits that are looked at; None: all.
    """
    notes: list[str] = []
    if mask is not None:
        value, first = value & mask, first & mask
        same = np.concatenate([[first], value])
        kept = np.flatnonzero(np.diff(same))
        sample, value = sample[kept], value[kept]
    if first:
        sample, value = np.concatenate([[0], sample]), np.concatenate([[first], value])
    before = np.concatenate([[0], value[:-1]])
    low_bits = _low_bits(wanted)
    constant_high = len(value) > 0 and len(np.unique((value if first else np.append(value, 0)) & ~low_bits)) == 1
    if constant_high and first:
        before[0] = first & ~low_bits
    high_stays = (value & ~low_bits) == (before & ~low_bits)
    code = np.where(high_stays & ((value & ~low_bits) != 0), value & low_bits, value)
    code_before = np.where(high_stays, before & low_bits, before)
    low_stays = ((value & low_bits) == (before & low_bits)) & ~high_stays & (before != 0)
    rises = (code != 0) & (code != code_before) & ~low_stays

    settling = np.zeros(len(value), dtype=bool)
    settling[:-1] = (np.diff(sample) == 1) & rises[:-1] & rises[1:]
    if settling.any():
        notes.append(f"{_counted(code[settling])} stood for one sample before another code, and were passed over")
        code_before[1:] = np.where(settling[:-1], code_before[:-1], code_before[1:])
        rises &= ~settling
    falls = rises & (code_before != 0) & ((code & code_before) == code)
    is_held = bool(rises.any()) and int((code_before[rises] == 0).sum()) * 2 < int(rises.sum())
    if falls.any():
        if is_held:
            notes.append(
                f"the line holds its value until the next trigger; {_counted(code[falls])} begin where it falls from a "
                "higher code, and were taken"
            )
        else:
            notes.append(
                f"{_counted(code[falls])} begin where the line falls from a code that has the same bits, as when one "
                "of "
                "two overlapping pulses ends, and were passed over; --trigger-mask chooses the bits of one device"
            )
            rises &= ~falls
    beside = rises & (code != value)
    if beside.any():
        shown = f"{int(value[beside][0])} read as {int(code[beside][0])}"
        notes.append(f"{int(beside.sum())} triggers stand beside status bits that were set before them, {shown}")
    return Triggers(sample=sample[rises], code=code[rises], notes=tuple(notes))


def _low_bits(wanted: set[int]) -> int:
    """Mask of the whole bytes that hold the table's highest code."""
    highest = max(wanted, default=0)
    return (1 << (8 * max(1, -(-highest.bit_length() // 8)))) - 1


def _counted(codes: np.ndarray) -> str:
    """ "3 triggers (4 twice, 5 once)" in figures: how many, and how many of each code."""
    counts = Counter(codes.tolist())
    shown = ", ".join(f"{code} × {count}" for code, count in counts.most_common(5))
    return f"{len(codes)} triggers ({shown}{' …' if len(counts) > 5 else ''})"
