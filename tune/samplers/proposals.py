"""What a sampler is: it proposes the setting that a search tries next, and no setting twice.

What was tried before an interruption is told to new proposals from the records, so that they continue as if they had
seen every trial.
"""

import abc
from collections.abc import Sequence

from neuroimagen.tune.config import SearchConfig
from neuroimagen.tune.records import TrialRecord
from neuroimagen.tune.registry import SAMPLERS
from neuroimagen.tune.space import Value


class Proposals(abc.ABC):
    """Proposes settings, and learns how their trials ended."""

    @abc.abstractmethod
    def __init__(self, search: SearchConfig, objectives: Sequence[str], *, num_told: int = 0) -> None:
        """objectives: what is to be raised. num_told: trials of earlier sessions, so that a resumed search does not
        draw the same random numbers again.
        """

    @classmethod  # noqa: B027 - most samplers take every space
    def check(cls, search: SearchConfig) -> None:
        """Raise ValueError if no settings of this search can be proposed."""

    @classmethod
    def num_settings(cls, search: SearchConfig) -> int | None:
        """How many settings there are, whatever `num_trials` says; None where `num_trials` decides."""
        return None

    @abc.abstractmethod
    def next(self, name: str) -> dict[str, Value] | None:
        """The setting of trial `name`; None when there is nothing left to try."""

    @abc.abstractmethod
    def tell(self, record: TrialRecord) -> None:
        """Learn how a trial ended; also of trials that were proposed before an interruption."""


def proposals_for(search: SearchConfig, objectives: Sequence[str], records: Sequence[TrialRecord]) -> Proposals:
    """The proposals of a search that has made `records`."""
    proposals: Proposals = SAMPLERS[search.sampler](search, objectives, num_told=len(records))
    for record in records:
        proposals.tell(record)
    return proposals
