"""The samplers of Optuna: tree-structured Parzen estimator, Gaussian process, random.

After an interruption, a new study is given all earlier trials, so it continues as if it had not been interrupted.
"""

import abc
import warnings
from collections.abc import Sequence
from typing import Any

from neuroimagen.tune.config import SearchConfig
from neuroimagen.tune.records import TrialRecord
from neuroimagen.tune.samplers.proposals import Proposals
from neuroimagen.tune.space import Parameter, Space, Value, num_combinations

ESTIMATOR_REPEATS = 10
"""Number of known settings that a sampler may propose in a row; after them, settings are drawn at random."""
MAX_REPEATS = 1000
"""Number of known settings in a row after which the search ends."""


class OptunaProposals(Proposals):
    """The part that all samplers of Optuna share: a study and the trials that it was told."""

    def __init__(self, search: SearchConfig, objectives: Sequence[str], *, num_told: int = 0) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        self._optuna = optuna
        self._space = search.space
        self._objectives = tuple(objectives)
        self._distributions = distributions(search.space)
        seed = search.seed + 1_000_003 * num_told
        sampler = self._make_sampler(optuna, seed, search.startup_trials)
        self._study = optuna.create_study(directions=["maximize"] * len(self._objectives), sampler=sampler)
        self._sampler = sampler
        self._random = optuna.samplers.RandomSampler(seed=seed + 1)
        self._open: dict[str, Any] = {}
        self._known: dict[str, list[float] | None] = {}
        """Setting → its objectives; None while its trial runs, and if it failed."""

    @abc.abstractmethod
    def _make_sampler(self, optuna: Any, seed: int, startup_trials: int) -> Any:
        """A sampler of the module `optuna`, which draws `startup_trials` settings at random before it proposes any."""

    def next(self, name: str) -> dict[str, Value] | None:
        num = num_combinations(self._space)
        if num is not None and len(self._known) >= num:
            return None
        for repeat in range(MAX_REPEATS):
            # A sampler that keeps proposing known settings has no better one.
            self._study.sampler = self._sampler if repeat < ESTIMATOR_REPEATS else self._random
            trial = self._study.ask(self._distributions)
            setting = setting_of(trial.params, self._space)
            key = repr(list(setting.values()))  # a value may be a mapping, which has no hash
            if key not in self._known:
                self._known[key] = None
                self._open[name] = trial
                return setting
            values = self._known[key]
            state = self._optuna.trial.TrialState
            self._study.tell(trial, values, state=state.FAIL if values is None else state.COMPLETE)
        return None

    def tell(self, record: TrialRecord) -> None:
        key = repr([record.values[name] for name in self._space])
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


class TpeProposals(OptunaProposals):
    """The tree-structured Parzen estimator (Bergstra et al. 2011)."""

    def _make_sampler(self, optuna: Any, seed: int, startup_trials: int) -> Any:
        # Multivariate, as margins and distances depend on each other. The constant liar keeps settings apart whose
        # trials run at the same time.
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=startup_trials, multivariate=True, constant_liar=True
        )


class GaussianProcessProposals(OptunaProposals):
    """Bayesian optimisation with a Gaussian process."""

    def _make_sampler(self, optuna: Any, seed: int, startup_trials: int) -> Any:
        # Not deterministic: objectives are measured with one seed on a sample of segments, so a setting among many good
        # ones is preferred to a single high value.
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup_trials, deterministic_objective=False)


class RandomProposals(OptunaProposals):
    """Settings at random."""

    def _make_sampler(self, optuna: Any, seed: int, startup_trials: int) -> Any:
        return optuna.samplers.RandomSampler(seed=seed)


def distributions(space: Space) -> dict[str, Any]:
    """Optuna's description of a space. Choices are given by their positions, as integers if they are ordered."""
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
    """A setting as Optuna's parameters."""
    params: dict[str, Any] = {}
    for key, parameter in space.items():
        params[key] = values[key] if parameter.choices is None else parameter.choices.index(values[key])
    return params


def setting_of(params: dict[str, Any], space: Space) -> dict[str, Value]:
    """The setting that Optuna's parameters stand for."""
    setting: dict[str, Value] = {}
    for key, parameter in space.items():
        setting[key] = parameter.rounded(params[key]) if parameter.choices is None else parameter.choices[params[key]]
    return setting
