"""The noise schedulers that images are denoised with: what a scheduler declares, and the registry of their names.

A package from outside adds one with an entry point in the group `neuroimagen.schedulers` (docs/extending.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.reading import content_of
from neuroimagen.data_shards.common.registry import Registry


@dataclass(frozen=True, kw_only=True)
class NoiseScheduler:
    """How a noise scheduler is made from the scheduler_config.json of a model folder."""

    scheduler_class: Any
    """A class with the interface of diffusers' schedulers: `from_config`, `set_timesteps`, `timesteps`,
    `init_noise_sigma`, `order`, `add_noise`, `scale_model_input`, `step`, and `set_begin_index` if its steps have a
    state. A step must draw no random numbers: an image depends on its own noise only.
    """
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the class that take the place of those in scheduler_config.json."""

    def from_config(self, scheduler_config: Mapping[str, Any]) -> Any:
        """A scheduler with the noise schedule of a model. A new one each time, because multi-step solvers have a state.

        scheduler_config: the content of the model folder's scheduler_config.json.
        """
        return self.scheduler_class.from_config(scheduler_config, **self.options)

    def make(self, scheduler_config: Mapping[str, Any], steps: int) -> Any:
        """A scheduler as `from_config` makes it, with `steps` timesteps.

        Raises UserError when the model was trained with fewer timesteps than that.
        """
        num_train_timesteps = int(scheduler_config.get("num_train_timesteps", 1000))
        if not 1 <= steps <= num_train_timesteps:
            raise UserError(
                f"{steps} sampling steps were asked for, but the model has {num_train_timesteps} timesteps. Choose 1 "
                f"to {num_train_timesteps}."
            )
        with content_of("use the model's scheduler_config.json", remedy="Fetch the model folder again."):
            scheduler = self.from_config(scheduler_config)
            scheduler.set_timesteps(steps)
        return scheduler


def num_denoising_steps(steps: int, strength: float) -> int:
    """How many of `steps` are taken from a start at `strength`: rounded down, as diffusers does."""
    return min(int(steps * strength), steps)


_BUILTIN = "neuroimagen.trainer.reconstruction.diffusers_schedulers"
SCHEDULERS: Registry[NoiseScheduler] = Registry(
    "noise scheduler",
    "neuroimagen.schedulers",
    {
        "ddim": f"{_BUILTIN}:DDIM",
        "dpm-solver++": f"{_BUILTIN}:DPM_SOLVER",
    },
)
