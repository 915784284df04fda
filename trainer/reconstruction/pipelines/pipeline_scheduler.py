"""A noise scheduler as a pipeline meets it, for one batch of images."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from neuroimagen.trainer.reconstruction.schedulers import num_denoising_steps


class PipelineScheduler:
    """Stands between a diffusers pipeline and a noise scheduler that has its timesteps.

    It gives every family's text-to-image pipeline what only some pipelines have: a start part of the way up the noise
    schedule (SDEdit, Meng et al. 2022), as diffusers' img2img pipelines do it. The scheduler computes in float32
    whatever the U-Net does. It goes by timesteps on the CPU, the U-Net by a copy on its device: a copy in each step
    would wait for all work that is queued there.
    """

    def __init__(self, scheduler: Any, *, steps: int, strength: float | None, device: torch.device) -> None:
        """`scheduler`: with `steps` timesteps. strength: share of them that is denoised from a start; None: all, from
        pure noise.
        """
        self.scheduler = scheduler
        self.config = scheduler.config
        self.order: int = scheduler.order
        self.init_noise_sigma = 1.0  # latents come with the noise in them
        first = 0
        if strength is not None:
            first = (steps - num_denoising_steps(steps, strength)) * self.order
            if hasattr(scheduler, "set_begin_index"):  # DDIM has no position to set: it goes by the timestep
                scheduler.set_begin_index(first)
        self._timesteps = scheduler.timesteps[first:].cpu()
        self.timesteps = self._timesteps.to(device)
        self._done = 0
        self._takes_generator = "generator" in inspect.signature(scheduler.step).parameters

    def starting_latents(self, noise: Tensor, start: Tensor | None) -> Tensor:
        """Latents that denoising begins at: the noise as the scheduler scales it, or `start` with noise added."""
        if start is None:
            return noise * self.scheduler.init_noise_sigma
        return self.scheduler.add_noise(start, noise, self._timesteps[:1])

    def draw_seeds(self, generators: Sequence[torch.Generator]) -> None:
        """Seed a scheduler that draws noise from a seed of its own (DPMSolverSDEScheduler): one for each image."""
        if hasattr(self.scheduler, "noise_sampler_seed"):
            seeds = [int(torch.randint(2**63 - 1, (), generator=generator)) for generator in generators]
            self.scheduler.noise_sampler_seed = seeds

    # --- what pipelines call ---------------------------------------------------------------------------------------

    def set_timesteps(self, num_inference_steps: int, device: torch.device | None = None) -> None:
        """Nothing: the timesteps are set."""

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        scaled = self.scheduler.scale_model_input(sample, self._timesteps[self._done])
        return scaled.to(memory_format=torch.channels_last)

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor,
        sample: Tensor,
        generator: list[torch.Generator] | None = None,
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        """One step. Noise that the scheduler adds comes from each image's own generator."""
        options = {"generator": generator} if self._takes_generator else {}
        here = self._timesteps[self._done]
        self._done += 1
        return (self.scheduler.step(model_output.float(), here, sample, return_dict=False, **options)[0],)
