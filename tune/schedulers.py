"""Ray Tune's schedulers for a search, told what an interrupted search had seen."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from neuroimagen.tune.config import GuidanceSearch, Search
from neuroimagen.tune.records import TrialRecord
from neuroimagen.tune.space import Parameter, Space, Value


def make_scheduler(search: Search, *, first: int, last: int, records: Sequence[TrialRecord] = ()) -> Any:
    """The scheduler of a search whose trials report "step" and "value"; None leaves every trial to its end.

    first: steps (or pictures) at which a trial may first be stopped. last: of a whole trial. records: of trials of an
    interrupted search, by whose curves later trials are judged.
    """
    from ray.tune.schedulers import AsyncHyperBandScheduler, PopulationBasedTraining

    if isinstance(search, GuidanceSearch):
        name = "asha" if search.num_reports > 1 else "none"
    else:
        name = search.scheduler
    common = {"time_attr": "step", "metric": "value", "mode": "max"}
    if name == "asha":
        asha = AsyncHyperBandScheduler(
            **common,
            max_t=last,
            grace_period=min(first, last),
            reduction_factor=search.reduction_factor,
            stop_last_trials=False,  # a trial that arrives is done by itself, with its export
        )
        for record in records:
            _replay(asha, record)
        return asha
    if name == "asha_promoting":
        return _promoting(first=first, last=last, factor=search.reduction_factor, records=records)
    if name == "pbt":
        return PopulationBasedTraining(
            **common,
            perturbation_interval=first,
            hyperparam_mutations=mutations(search.space),
            custom_explore_fn=Clip(search.space),
            require_attrs=False,  # a failed trial has none
            log_config=False,
        )
    return None


def _promoting(*, first: int, last: int, factor: int, records: Sequence[TrialRecord]) -> Any:
    """The scheduler with its rungs as an interrupted search left them."""
    from neuroimagen.tune.promotion import PromotingScheduler, Rungs

    rungs = Rungs(first=first, last=last, factor=factor)
    for record in records:
        for step, value in record.curve:
            rungs.saw(record.name, step, value)
        if not record.is_over:  # it was at work again after the curve that its record has
            rungs.went_on(record.name)
    return PromotingScheduler(rungs)


def _replay(scheduler: Any, record: TrialRecord) -> None:
    """Let a scheduler see a trial of an earlier session; what it decides about it is past."""
    trial = SimpleNamespace(trial_id=record.name)
    scheduler.on_trial_add(None, trial)
    for step, value in record.curve:
        scheduler.on_trial_result(None, trial, {"step": step, "value": value})
    scheduler.on_trial_remove(None, trial)


def mutations(space: Space) -> dict[str, Any]:
    """What population-based training may change, in Ray's terms."""
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
    """Brings what population-based training has perturbed back between the bounds."""

    def __init__(self, space: Space) -> None:
        self._space = space

    def __call__(self, config: dict[str, Any]) -> dict[str, Any]:
        clipped: dict[str, Value] = {
            key: parameter.rounded(config[key]) for key, parameter in self._space.items() if parameter.is_range
        }
        return config | clipped
