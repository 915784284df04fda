"""The importance of each key of a space: how much of the objective's variance it explains."""

import contextlib
from collections.abc import Sequence

from neuroimagen.tune.config import SearchConfig
from neuroimagen.tune.records import TrialRecord
from neuroimagen.tune.samplers.optuna_study import distributions, params_of


def importances(search: SearchConfig, records: Sequence[TrialRecord], objective: str) -> dict[str, float]:
    """Key → share of the objective's variance over the space that it explains, by functional ANOVA of random forests.

    Hutter et al. 2014, as Optuna computes it, from the trials that ran to their end. Empty if they are fewer than four,
    or if all of them have the same objective.
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
    with contextlib.suppress(RuntimeError):  # every tree is a single leaf, so there is no variance to explain
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        found = dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
    return found
