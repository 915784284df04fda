"""The noise schedulers that have a short name: diffusers' classes, each with the options it is used with."""

from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    UniPCMultistepScheduler,
)

from neuroimagen.trainer.reconstruction.schedulers import NoiseScheduler, from_class

DDIM = from_class(DDIMScheduler)
"""Song et al. 2021, without noise between the steps."""
DPM_SOLVER = NoiseScheduler(
    scheduler_class=DPMSolverMultistepScheduler, options={"algorithm_type": "dpmsolver++", "solver_order": 2}
)
"""DPM-Solver++ (2M), Lu et al. 2022."""
EULER = from_class(EulerDiscreteScheduler)
"""Karras et al. 2022, algorithm 2 without churn; SDXL's own."""
EULER_ANCESTRAL = from_class(EulerAncestralDiscreteScheduler)
"""The same with noise added in each step, from each image's generator; SD-Turbo's and SDXL-Turbo's own."""
LCM = from_class(LCMScheduler)
"""Luo et al. 2023: for models distilled to a few steps."""
UNIPC = from_class(UniPCMultistepScheduler)
"""Zhao et al. 2023."""
