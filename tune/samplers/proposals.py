"""The base class of samplers: they propose the settings that a search tries, and none of them twice.

After an interruption, new proposals are told all earlier trials from the records, so they continue as if they had not
been interrupted.
"""

import abc
from collections.abc import Sequence

from neuroimagen.tune.config import SearchConfig
from neuroimagen.tune.records import TrialRecord
from neuroimagen.tune.registry import SAMPLERS
from neuroimagen.tune.space import Value


class Proposals(abc.ABC):
    """Proposes settings, and is told how their trials ended."""

    @abc.abstractmethod
    def __init__(self, search: SearchConfig, objectives: Sequence[str], *, num_told: int = 0) -> None:
        """objectives: names of the figures to maximise. num_told: number of trials of earlier sessions, with which a
        resumed search changes its seed, so that it does not draw the same settings again.
        """

    @classmethod  # noqa: B027 - most samplers take every space
    def check(cls, search: SearchConfig) -> None:
        """Raise ValueError if the sampler cannot propose settings of this search."""

    @classmethod
    def num_settings(cls, search: SearchConfig) -> int | None:
        """The number of settings that it proposes; None if `num_trials` decides."""
        return None

    @abc.abstractmethod
    def next(self, name: str) -> dict[str, Value] | None:
        """The setting of the trial `name`; None if none is left."""

    @abc.abstractmethod
    def tell(self, record: TrialRecord) -> None:
        """Take note of how a trial ended; also of one that was proposed before an interruption."""


def proposals_for(search: SearchConfig, objectives: Sequence[str], records: Sequence[TrialRecord]) -> Proposals:
    """The proposals of a search, which are told the trials of `records`."""
    proposals: Proposals = SAMPLERS[search.sampler](search, objectives, num_told=len(records))
    for record in records:
        proposals.tell(record)
    return proposals
