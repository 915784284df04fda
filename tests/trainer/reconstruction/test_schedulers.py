"""The registry of noise schedulers, and how each is made from a model folder's configuration."""

from typing import Any

import pytest
import torch

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.reconstruction.schedulers import SCHEDULERS, NoiseScheduler, num_denoising_steps

CONFIG = {
    "num_train_timesteps": 500,
    "beta_start": 0.001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "v_prediction",
}


@pytest.mark.parametrize("name", SCHEDULERS.names())
def test_every_scheduler_follows_the_model_s_schedule_and_takes_the_loop_s_steps(name: str) -> None:
    scheduler = SCHEDULERS[name].make(CONFIG, 6)
    assert scheduler.config.prediction_type == "v_prediction"
    assert torch.equal(scheduler.betas, torch.linspace(0.001, 0.02, 500))
    assert scheduler.timesteps.shape == (6,)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        assert scheduler.scale_model_input(latents, timestep).shape == latents.shape
        latents = scheduler.step(latents * 0.1, timestep, latents, return_dict=False)[0]
    assert torch.isfinite(latents).all()
    assert SCHEDULERS[name].make(CONFIG, 6) is not scheduler  # a multi-step solver keeps what it has seen


def test_as_many_steps_as_the_model_has_timesteps() -> None:
    assert len(SCHEDULERS["ddim"].make(CONFIG, 500).timesteps) == 500
    for steps in (0, 501):
        with pytest.raises(UserError, match=rf"^{steps} sampling steps .* 500 timesteps\. Choose 1 to 500\.$"):
            SCHEDULERS["ddim"].make(CONFIG, steps)


def test_number_of_denoising_steps() -> None:
    assert [num_denoising_steps(20, strength) for strength in (0.75, 1.0, 0.04, 0.999)] == [15, 20, 0, 19]


def test_a_class_of_one_s_own() -> None:
    class Recorded:
        @classmethod
        def from_config(cls, config: dict[str, Any], **options: object) -> "Recorded":
            made = cls()
            made.arguments = {**config, **options}  # type: ignore[attr-defined]
            return made

        def set_timesteps(self, steps: int) -> None:
            self.steps = steps

    made = NoiseScheduler(scheduler_class=Recorded, options={"order": 3}).make(CONFIG, 7)
    assert (made.steps, made.arguments) == (7, {**CONFIG, "order": 3})


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no noise scheduler 'dpm-solver'\. Did you mean 'dpm-solver\+\+'"):
        SCHEDULERS["dpm-solver"]
    with pytest.raises(UserError, match=r"no noise scheduler 'EulerScheduler'.*names of diffusers' classes"):
        SCHEDULERS["EulerScheduler"]


def test_diffusers_classes_are_known_by_their_names() -> None:
    from diffusers import DDPMScheduler

    assert "EulerAncestralDiscreteScheduler" in SCHEDULERS
    assert "EulerAncestralDiscreteScheduler" not in SCHEDULERS.names()
    made = SCHEDULERS["DDPMScheduler"].make({**CONFIG, "clip_sample": True}, 4)
    assert isinstance(made, DDPMScheduler)
    assert not made.config.clip_sample  # latents have no fixed range
    assert made.config.prediction_type == "v_prediction"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("FlowMatchEulerDiscreteScheduler", "it is for other models (it has no add_noise and no scale_model_input)"),
        ("DPMSolverMultistepInverseScheduler", "it turns images into noise"),
        ("RePaintScheduler", "its steps need mask, original_image as well"),
        ("CMStochasticIterativeScheduler", "it does not know what such a U-Net predicts (no prediction_type)"),
    ],
)
def test_classes_for_other_models_are_refused_with_the_reason(name: str, reason: str) -> None:
    assert name not in SCHEDULERS
    with pytest.raises(UserError) as error:
        SCHEDULERS[name]
    assert reason in str(error.value)


def test_settings_that_a_scheduler_cannot_have_are_an_error_with_its_name() -> None:
    with pytest.raises(UserError, match=r"^LCMScheduler cannot be used with this model and 60 steps: .* Choose"):
        SCHEDULERS["lcm"].make(CONFIG, 60)
