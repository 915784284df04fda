"""The grid: every combination of the values that a grid takes from each parameter."""

from collections.abc import Sequence

from neuroimagen.tune.config import SearchConfig
from neuroimagen.tune.records import TrialRecord
from neuroimagen.tune.samplers.proposals import Proposals
from neuroimagen.tune.space import Value, grid_points


class GridProposals(Proposals):
    """All combinations in order (the last key varies fastest), without those that were tried before."""

    def __init__(self, search: SearchConfig, objectives: Sequence[str], *, num_told: int = 0) -> None:
        self._settings = grid_points(search.space)
        self._tried: list[dict[str, Value]] = []

    @classmethod
    def check(cls, search: SearchConfig) -> None:
        for key, parameter in search.space.items():
            if parameter.is_range and parameter.points is None:
                raise ValueError(f"sampler grid: space.{key} is a range; give it `points`, or choices")

    @classmethod
    def num_settings(cls, search: SearchConfig) -> int | None:
        return len(grid_points(search.space))

    def next(self, name: str) -> dict[str, Value] | None:
        while self._settings:
            setting = self._settings.pop(0)
            if setting not in self._tried:
                return setting
        return None

    def tell(self, record: TrialRecord) -> None:
        self._tried.append(dict(record.values))
