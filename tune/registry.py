"""The samplers that propose settings, and the schedulers that decide when trials stop, by name.

Configuration, help and the runner of trials read these tables. The modules behind the names import Optuna and Ray only
when a search runs.
"""

from typing import Any

from neuroimagen.data_shards.common.registry import Registry

SAMPLERS: Registry[Any] = Registry(
    "sampler",
    "neuroimagen.samplers",
    {
        "tpe": "neuroimagen.tune.samplers.optuna_study:TpeProposals",
        "gp": "neuroimagen.tune.samplers.optuna_study:GaussianProcessProposals",
        "random": "neuroimagen.tune.samplers.optuna_study:RandomProposals",
        "grid": "neuroimagen.tune.samplers.grid:GridProposals",
    },
)
"""Name → subclass of `tune.samplers.proposals.Proposals`."""

SCHEDULERS: Registry[Any] = Registry(
    "scheduler of trials",
    "neuroimagen.trial_schedulers",
    {
        "asha": "neuroimagen.tune.schedulers:Asha",
        "asha_promoting": "neuroimagen.tune.schedulers:PromotingAsha",
        "pbt": "neuroimagen.tune.schedulers:PopulationBasedTraining",
        "none": "neuroimagen.tune.schedulers:NoScheduler",
    },
)
"""Name → subclass of `tune.schedulers.Scheduler`."""
