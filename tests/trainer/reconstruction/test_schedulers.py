"""The registry of noise schedulers, and how each is made from a model folder's configuration."""

from typing import Any

import pytest
import torch

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.reconstruction.schedulers import SCHEDULERS, NoiseScheduler, num_denoising_steps

CONFIG = {"num_train_timesteps": 500, "beta_start": 0.001, "beta_end": 0.02, "prediction_type": "v_prediction"}


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
