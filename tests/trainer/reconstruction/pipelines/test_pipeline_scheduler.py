"""A scheduler between a pipeline and a batch: starts, float32, and noise of each image's own."""

import pytest
import torch
from drawn_images import normal, seeded

from neuroimagen.trainer.reconstruction.pipelines.pipeline_scheduler import PipelineScheduler
from neuroimagen.trainer.reconstruction.schedulers import SCHEDULERS

CONFIG = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
NAMES = (
    *SCHEDULERS.names(),
    *("DDPMScheduler", "DDIMParallelScheduler", "PNDMScheduler", "LMSDiscreteScheduler", "HeunDiscreteScheduler"),
    *("KDPM2AncestralDiscreteScheduler", "DEISMultistepScheduler", "TCDScheduler"),
    *("DPMSolverSinglestepScheduler", "SASolverScheduler", "EDMEulerScheduler"),
)


def sampled(name: str, rows: list[int], *, strength: float | None, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """What a loop like a pipeline's makes of three images' noise, with a network that knows the clean image."""
    solver = PipelineScheduler(SCHEDULERS[name].make(CONFIG, 6), steps=6, strength=strength, device=torch.device("cpu"))
    generators = [seeded(3)[row] for row in rows]
    noise = torch.stack([torch.randn(4, 8, 8, generator=generator) for generator in generators])
    latents = solver.starting_latents(noise, None if strength is None else normal(3, 4, 8, 8)[rows])
    solver.draw_seeds(generators)
    solver.set_timesteps(6, device=torch.device("cpu"))
    latents = latents * solver.init_noise_sigma
    for timestep in solver.timesteps:
        model_input = solver.scale_model_input(latents, timestep)
        latents = solver.step((model_input * 0.1).to(dtype), timestep, latents, generator=generators)[0]
        assert latents.dtype == torch.float32
    return latents


@pytest.mark.parametrize("name", NAMES)
def test_every_scheduler_draws_each_image_alone(name: str) -> None:
    for strength in (None, 0.5):
        together = sampled(name, [0, 1, 2], strength=strength)
        assert torch.isfinite(together).all()
        torch.testing.assert_close(sampled(name, [2, 0], strength=strength), together[[2, 0]], rtol=1e-4, atol=1e-4)


def test_steps_are_float32_whatever_the_network_is() -> None:
    exact, low = (sampled("dpm-solver++", [0, 1], strength=0.5, dtype=d) for d in (torch.float32, torch.bfloat16))
    assert 0 < (exact - low).abs().max() < 0.05


def test_a_scheduler_with_seeds_of_its_own_gets_one_for_each_image() -> None:
    """As diffusers' DPMSolverSDEScheduler has them, which needs torchsde."""
    scheduler = SCHEDULERS["euler"].make(CONFIG, 6)
    scheduler.noise_sampler_seed = None
    solver = PipelineScheduler(scheduler, steps=6, strength=None, device=torch.device("cpu"))
    solver.draw_seeds(seeded(3))
    seeds = scheduler.noise_sampler_seed
    assert len(set(seeds)) == 3
    solver.draw_seeds(seeded(3)[1:])
    assert scheduler.noise_sampler_seed == seeds[1:]
