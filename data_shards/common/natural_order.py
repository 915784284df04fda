"""Order of names as people count: "session 2" before "session 10"."""

import re


def natural_key(name: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """Sort key of a name in which runs of digits count as numbers; equal only for equal names."""
    parts = [part for part in re.split(r"(\d+)", name) if part]
    key = [(0, int(part), "") if part.isdecimal() else (1, 0, part.casefold()) for part in parts]
    return tuple(key), name
