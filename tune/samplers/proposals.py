"""Which setting to try next: Optuna's estimator, at random, a grid, or a list. No setting is tried twice.

What was tried before an interruption is told to a new study from the records, so it goes on as if it had seen it all.
"""

import contextlib
import warnings
from collections.abc import Sequence
from typing import Any, Protocol

from neuroimagen.tune.config import SearchConfig
from neuroimagen.tune.records import TrialRecord
from neuroimagen.tune.space import Parameter, Space, Value, grid_points, num_combinations

INSISTENCE = 10
"""Known settings that an estimator may propose in a row before an unknown one is drawn at random."""
MAX_REPEATS = 1000
"""Known settings in a row after which the search ends."""


class Proposals(Protocol):
    """Proposes settings, and learns how they ended."""

    def next(self, name: str) -> dict[str, Value] | None:
        """The setting of trial `name`; None when there is nothing left to try."""

    def tell(self, record: TrialRecord) -> None:
        """Learn how a trial ended; also of trials that were proposed before an interruption."""


class ListedProposals:
    """A fixed list, in order, without what was tried before."""

    def __init__(self, settings: Sequence[dict[str, Value]]) -> None:
        self._settings = list(settings)
        self._tried: list[dict[str, Value]] = []

    def next(self, name: str) -> dict[str, Value] | None:
        while self._settings:
            setting = self._settings.pop(0)
            if setting not in self._tried:
                return setting
        return None

    def tell(self, record: TrialRecord) -> None:
        self._tried.append(dict(record.values))


class OptunaProposals:
    """Optuna's samplers over a space; objectives are to be raised."""

    def __init__(self, search: SearchConfig, objectives: Sequence[str], *, num_told: int = 0) -> None:
        """`num_told`: trials of earlier sessions, so that a resumed search does not draw the same numbers again."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        self._optuna = optuna
        self._space = search.space
        self._objectives = tuple(objectives)
        self._distributions = distributions(search.space)
        seed = search.seed + 1_000_003 * num_told
        sampler: Any
        if search.sampler == "random":
            sampler = optuna.samplers.RandomSampler(seed=seed)
        elif search.sampler == "gp":
            # Not exact: seeds and segments are a sample, and the best is to be near many good settings.
            sampler = optuna.samplers.GPSampler(
                seed=seed, n_startup_trials=search.startup_trials, deterministic_objective=False
            )
        else:
            # Together: margins and distances depend on each other. The liar keeps trials that run at once apart.
            sampler = optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=search.startup_trials, multivariate=True, constant_liar=True
            )
        self._study = optuna.create_study(directions=["maximize"] * len(self._objectives), sampler=sampler)
        self._sampler = sampler
        self._random = optuna.samplers.RandomSampler(seed=seed + 1)
        self._open: dict[str, Any] = {}
        self._known: dict[tuple[Value, ...], list[float] | None] = {}
        """Setting → its objectives, None while it runs or when it failed."""

    def next(self, name: str) -> dict[str, Value] | None:
        num = num_combinations(self._space)
        if num is not None and len(self._known) >= num:
            return None
        for repeat in range(MAX_REPEATS):
            # An estimator that insists on what is known has nothing better to propose.
            self._study.sampler = self._sampler if repeat < INSISTENCE else self._random
            trial = self._study.ask(self._distributions)
            setting = setting_of(trial.params, self._space)
            key = tuple(setting.values())
            if key not in self._known:
                self._known[key] = None
                self._open[name] = trial
                return setting
            values = self._known[key]
            state = self._optuna.trial.TrialState
            self._study.tell(trial, values, state=state.FAIL if values is None else state.COMPLETE)
        return None

    def tell(self, record: TrialRecord) -> None:
        key = tuple(record.values[name] for name in self._space)
        values = [record.figures[name] for name in self._objectives if name in record.figures]
        measured = len(values) == len(self._objectives)
        self._known[key] = values if measured and record.state == "finished" else None
        trial = self._open.pop(record.name, None)
        state = self._optuna.trial.TrialState
        outcome = {"finished": state.COMPLETE, "stopped": state.PRUNED}.get(record.state, state.FAIL)
        if not measured and outcome == state.COMPLETE:
            outcome = state.FAIL
        curve = dict(record.curve) if len(self._objectives) == 1 else {}
        if outcome == state.PRUNED and not curve:
            outcome = state.FAIL
        if trial is None:
            self._study.add_trial(
                self._optuna.trial.create_trial(
                    state=outcome,
                    params=params_of(record.values, self._space),
                    distributions=self._distributions,
                    values=values if outcome == state.COMPLETE else None,
                    intermediate_values=curve,
                )
            )
            return
        for step, value in curve.items():
            trial.report(value, step)
        self._study.tell(trial, values if outcome == state.COMPLETE else None, state=outcome)


def proposals_for(search: SearchConfig, objectives: Sequence[str], records: Sequence[TrialRecord]) -> Proposals:
    """The proposals of a search that has made `records`."""
    proposals: Proposals
    if search.sampler == "grid":
        proposals = ListedProposals(grid_points(search.space))
    else:
        proposals = OptunaProposals(search, objectives, num_told=len(records))
    for record in records:
        proposals.tell(record)
    return proposals


def importances(search: SearchConfig, records: Sequence[TrialRecord], objective: str) -> dict[str, float]:
    """Share of the objective's variance over the space that each key explains, by functional ANOVA on random forests.

    Hutter et al. 2014, as Optuna computes it from the trials that ran to their end. Empty with fewer than four of
    them, or when they all came out the same.
    """
    import optuna

    finished = [record for record in records if record.state == "finished" and objective in record.figures]
    if len(finished) < 4 or len({record.figures[objective] for record in finished}) == 1:
        return {}
    study = optuna.create_study(direction="maximize")
    for record in finished:
        study.add_trial(
            optuna.trial.create_trial(
                params=params_of(record.values, search.space),
                distributions=distributions(search.space),
                value=record.figures[objective],
            )
        )
    found: dict[str, float] = {}
    with contextlib.suppress(RuntimeError):  # every tree is a single leaf: nothing to explain
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        found = dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
    return found


def distributions(space: Space) -> dict[str, Any]:
    """Optuna's description of a space; choices are told by their position, which is an order where they have one."""
    import optuna

    def of(parameter: Parameter) -> Any:
        if parameter.choices is not None:
            last = len(parameter.choices) - 1
            if parameter.is_ordered and last > 0:
                return optuna.distributions.IntDistribution(0, last)
            return optuna.distributions.CategoricalDistribution(tuple(range(last + 1)))
        low, high = parameter.bounds
        if parameter.whole:
            return optuna.distributions.IntDistribution(int(low), int(high), log=parameter.log)
        return optuna.distributions.FloatDistribution(low, high, log=parameter.log)

    return {key: of(parameter) for key, parameter in space.items()}


def params_of(values: dict[str, Value], space: Space) -> dict[str, Any]:
    """A setting in Optuna's terms."""
    params: dict[str, Any] = {}
    for key, parameter in space.items():
        params[key] = values[key] if parameter.choices is None else parameter.choices.index(values[key])
    return params


def setting_of(params: dict[str, Any], space: Space) -> dict[str, Value]:
    """A setting from Optuna's terms."""
    setting: dict[str, Value] = {}
    for key, parameter in space.items():
        setting[key] = parameter.rounded(params[key]) if parameter.choices is None else parameter.choices[params[key]]
    return setting
