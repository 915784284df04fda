"""The noise schedulers that come with neuroimagen: diffusers' classes, each with the options it is used with."""

from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from neuroimagen.trainer.reconstruction.schedulers import NoiseScheduler

# Latents have no fixed range, so they must not be clipped. diffusers clips them where a folder does not say otherwise.
DDIM = NoiseScheduler(scheduler_class=DDIMScheduler, options={"clip_sample": False})
"""Song et al. 2021, without noise between the steps."""
DPM_SOLVER = NoiseScheduler(
    scheduler_class=DPMSolverMultistepScheduler, options={"algorithm_type": "dpmsolver++", "solver_order": 2}
)
"""DPM-Solver++ (2M), Lu et al. 2022."""
