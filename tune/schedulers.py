"""The schedulers of a search: they decide when trials stop. A resumed search compares with its earlier trials too."""

import abc
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

from neuroimagen.tune.config import Search, StageSearch
from neuroimagen.tune.records import TrialRecord
from neuroimagen.tune.registry import SCHEDULERS
from neuroimagen.tune.space import Parameter, Space, Value

_REPORTS = {"time_attr": "step", "metric": "value", "mode": "max"}
"""What trials report, in Ray's terms."""


class Scheduler(abc.ABC):
    """Decides which trials stop before their end; one of them is made for each search."""

    copies_checkpoints: ClassVar[bool] = False
    """Whether trials continue from copies of each other's checkpoints. Then all of them start together."""

    @classmethod  # noqa: B027 - most schedulers fit every search
    def check(cls, search: StageSearch) -> None:
        """Raise ValueError if the scheduler does not fit the search."""

    @classmethod
    @abc.abstractmethod
    def make(cls, search: Search, *, first: int, last: int, records: Sequence[TrialRecord]) -> Any:
        """Ray's scheduler, for trials that report "step" and "value"; None lets every trial run to its end.

        first: steps (or images) at which a trial may first be stopped. last: of a whole trial. records: trials of an
        interrupted search; later trials are compared with their curves too.
        """


def make_scheduler(search: Search, *, first: int, last: int, records: Sequence[TrialRecord] = ()) -> Any:
    """The scheduler of a search, in Ray's terms (`Scheduler.make`)."""
    return SCHEDULERS[search.scheduler].make(search, first=first, last=last, records=records)


class NoScheduler(Scheduler):
    """Every trial runs to its end."""

    @classmethod
    def make(cls, search: Search, *, first: int, last: int, records: Sequence[TrialRecord]) -> Any:
        return None


class Asha(Scheduler):
    """Asynchronous successive halving as Ray has it: a trial that is behind at a rung is stopped at once."""

    @classmethod
    def make(cls, search: Search, *, first: int, last: int, records: Sequence[TrialRecord]) -> Any:
        from ray.tune.schedulers import AsyncHyperBandScheduler

        scheduler = AsyncHyperBandScheduler(
            **_REPORTS,
            max_t=last,
            grace_period=min(first, last),
            reduction_factor=search.reduction_factor,
            stop_last_trials=False,  # a trial that reaches the last step ends by itself, after its export
        )
        for record in records:
            _replay(scheduler, record)
        return scheduler


class PromotingAsha(Scheduler):
    """Asynchronous successive halving with promotions (`tune/promotion.py`)."""

    @classmethod
    def make(cls, search: Search, *, first: int, last: int, records: Sequence[TrialRecord]) -> Any:
        """The scheduler with its rungs as an interrupted search left them."""
        from neuroimagen.tune.promotion import PromotingScheduler, Rungs  # imports Ray

        rungs = Rungs(first=first, last=last, factor=search.reduction_factor)
        for record in records:
            for step, value in record.curve:
                rungs.add(record.name, step, value)
            if not record.has_ended:  # it had continued when the search was interrupted
                rungs.mark_promoted(record.name)
        return PromotingScheduler(rungs)


class PopulationBasedTraining(Scheduler):
    """Population-based training (Jaderberg et al. 2017): the worst continue from copies of the best, with changes."""

    copies_checkpoints: ClassVar[bool] = True

    @classmethod
    def check(cls, search: StageSearch) -> None:
        if search.sampler == "grid":
            raise ValueError(
                "pbt changes settings during training, which a grid cannot. Choose the sampler random or tpe"
            )
        for key in search.space:
            section, _, name = key.partition(".")
            if section == "encoder" or name in search.fixed_by_checkpoints:
                raise ValueError(f"pbt continues from other trials' checkpoints, which would not fit another {key}")

    @classmethod
    def make(cls, search: Search, *, first: int, last: int, records: Sequence[TrialRecord]) -> Any:
        from ray.tune import schedulers

        return schedulers.PopulationBasedTraining(
            **_REPORTS,
            perturbation_interval=first,
            hyperparam_mutations=mutations(search.space),
            custom_explore_fn=Clip(search.space),
            require_attrs=False,  # a failed trial has no value
            log_config=False,
        )


def _replay(scheduler: Any, record: TrialRecord) -> None:
    """Report a trial of an earlier session to a scheduler; its decision about that trial does not matter any more."""
    trial = SimpleNamespace(trial_id=record.name)
    scheduler.on_trial_add(None, trial)
    for step, value in record.curve:
        scheduler.on_trial_result(None, trial, {"step": step, "value": value})
    scheduler.on_trial_remove(None, trial)


def mutations(space: Space) -> dict[str, Any]:
    """Key → the values that population-based training may give it, as Ray describes them."""
    from ray import tune

    def of(parameter: Parameter) -> Any:
        if parameter.choices is not None:
            return list(parameter.choices)
        low, high = parameter.bounds
        if parameter.whole:
            return tune.lograndint(int(low), int(high) + 1) if parameter.log else tune.randint(int(low), int(high) + 1)
        return tune.loguniform(low, high) if parameter.log else tune.uniform(low, high)

    return {key: of(parameter) for key, parameter in space.items()}


class Clip:
    """Returns values that population-based training has changed to within the bounds of their ranges."""

    def __init__(self, space: Space) -> None:
        self._space = space

    def __call__(self, config: dict[str, Any]) -> dict[str, Any]:
        clipped: dict[str, Value] = {
            key: parameter.rounded(config[key]) for key, parameter in self._space.items() if parameter.is_range
        }
        return config | clipped
