"""How much of the objective's variance each key of the space explains."""

import contextlib
from collections.abc import Sequence

from neuroimagen.tune.config import SearchConfig
from neuroimagen.tune.records import TrialRecord
from neuroimagen.tune.samplers.optuna_study import distributions, params_of


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
