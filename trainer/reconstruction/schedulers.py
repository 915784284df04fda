"""The noise schedulers that images are denoised with: what a scheduler declares, and the registry of their names.

Every scheduler class of diffusers that fits the U-Nets of latent diffusion is in the registry by the name of its class;
some have a short name as well. A package from outside adds one with an entry point in the group
`neuroimagen.schedulers` (docs/how-to/extending.md).
"""

import inspect
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
    """A class with the interface of diffusers' schedulers: `from_config`, `config`, `set_timesteps`, `timesteps`,
    `init_noise_sigma`, `order`, `add_noise`, `scale_model_input`, `step`, and `set_begin_index` if its steps have a
    state. A step that draws random numbers takes them from its argument `generator`, a list with one torch.Generator
    for each image: an image depends on its own generator only.
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

        Raises UserError when the model was trained with fewer timesteps than that, and when the scheduler cannot be
        made with these settings.
        """
        num_train_timesteps = int(scheduler_config.get("num_train_timesteps", 1000))
        if not 1 <= steps <= num_train_timesteps:
            raise UserError(
                f"{steps} sampling steps were asked for, but the model has {num_train_timesteps} timesteps. Choose 1 "
                f"to {num_train_timesteps}."
            )
        name = self.scheduler_class.__name__
        with content_of("use the model's scheduler_config.json", remedy="Fetch the model folder again."):
            try:
                scheduler = self.from_config(scheduler_config)
                scheduler.set_timesteps(steps)
            except ImportError as error:  # a class that needs another library
                raise UserError(
                    f"{name} needs a library that is not installed: {_first_line(error)}. Install it, or choose "
                    "another scheduler."
                ) from error
            except (ValueError, NotImplementedError, IndexError) as error:
                raise UserError(
                    f"{name} cannot be used with this model and {steps} steps: {_first_line(error)}. Choose another "
                    "number of steps, or another scheduler."
                ) from error
        return scheduler


def num_denoising_steps(steps: int, strength: float) -> int:
    """How many of `steps` are taken from a start at `strength`: rounded down, as diffusers does."""
    return min(int(steps * strength), steps)


class SchedulerRegistry(Registry[NoiseScheduler]):
    """The names that are listed, and diffusers' scheduler classes by theirs."""

    def __contains__(self, name: object) -> bool:
        if super().__contains__(name):
            return True
        scheduler_class = _class_of_diffusers(str(name))
        return scheduler_class is not None and _misfit(scheduler_class) is None

    def unknown(self, name: str) -> UserError:
        scheduler_class = _class_of_diffusers(name)
        if scheduler_class is not None and (reason := _misfit(scheduler_class)) is not None:
            return UserError(f"the {self.kind} {name!r} cannot draw with a latent diffusion model: {reason}.")
        listed = str(super().unknown(name)).removesuffix(".")
        return UserError(f"{listed}; the names of diffusers' classes (EulerDiscreteScheduler) are known as well.")

    def _load(self, name: str) -> NoiseScheduler:
        if super().__contains__(name):
            listed: NoiseScheduler = super()._load(name)
            return listed
        if name not in self:
            raise self.unknown(name)
        return from_class(_class_of_diffusers(name))


def from_class(scheduler_class: Any) -> NoiseScheduler:
    """A scheduler class of diffusers under its own defaults, but without clipping: latents have no fixed range."""
    clips = "clip_sample" in inspect.signature(scheduler_class.__init__).parameters
    return NoiseScheduler(scheduler_class=scheduler_class, options={"clip_sample": False} if clips else {})


def _class_of_diffusers(name: str) -> Any | None:
    """diffusers' scheduler class of that name; None if there is none. Imports diffusers only where one could be."""
    if not name.endswith("Scheduler"):
        return None
    import diffusers

    return getattr(diffusers, name, None)


def _misfit(scheduler_class: Any) -> str | None:
    """Why a scheduler class of diffusers does not fit a U-Net that predicts noise or velocity, as a clause."""
    if "Inverse" in scheduler_class.__name__:
        return "it turns images into noise"
    try:
        lacking = [
            name
            for name in ("set_timesteps", "add_noise", "scale_model_input", "step")
            if not hasattr(scheduler_class, name)
        ]
    except ImportError as error:  # diffusers' stand-in for a class that needs another library
        return f"it needs a library that is not installed ({_first_line(error)})"
    if lacking:
        return f"it is for other models (it has no {' and no '.join(lacking)})"
    step = inspect.signature(scheduler_class.step).parameters.values()
    needed = {item.name for item in step if item.default is item.empty and item.kind is not item.VAR_KEYWORD}
    if more := sorted(needed - {"self", "model_output", "timestep", "sample"}):
        return f"its steps need {', '.join(more)} as well"
    if "prediction_type" not in inspect.signature(scheduler_class.__init__).parameters:
        return "it does not know what such a U-Net predicts (no prediction_type)"
    return None


def _first_line(error: Exception) -> str:
    return next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), type(error).__name__)


_BUILTIN = "neuroimagen.trainer.reconstruction.diffusers_schedulers"
SCHEDULERS = SchedulerRegistry(
    "noise scheduler",
    "neuroimagen.schedulers",
    {
        "ddim": f"{_BUILTIN}:DDIM",
        "dpm-solver++": f"{_BUILTIN}:DPM_SOLVER",
        "euler": f"{_BUILTIN}:EULER",
        "euler-ancestral": f"{_BUILTIN}:EULER_ANCESTRAL",
        "lcm": f"{_BUILTIN}:LCM",
        "unipc": f"{_BUILTIN}:UNIPC",
    },
)
