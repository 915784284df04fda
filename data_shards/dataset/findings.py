"""What an audit says of a data set: statements with a level."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Level = Literal["problem", "note", "good"]
_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One statement of an audit."""

    check: str
    level: Level
    text: str
    figures: Mapping[str, float]
    stimuli: tuple[tuple[int, int], ...] = ()
    """Pairs of stimuli (rows of stimuli.parquet) that the statement is about."""
    channels: tuple[int, ...] = ()
    """Channels that the statement is about."""


def listed(names: Sequence[str]) -> str:
    """The first names as text, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
