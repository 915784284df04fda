"""The recipe's `reconstruct` section."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from neuroimagen.data_shards.common.numbers import require_finite
from neuroimagen.trainer.reconstruction.conditions import IMAGE_CONDITIONS, unknown_condition
from neuroimagen.trainer.reconstruction.schedulers import SCHEDULERS, num_denoising_steps


@dataclass(frozen=True, kw_only=True)
class ReconstructConfig:
    """How images are drawn: which conditions, of which split, with which settings of the sampling loop."""

    RENAMED: ClassVar[Mapping[str, str]] = {"rows": "conditions"}
    """Keys of earlier versions → what they are called now: recipes and runs of earlier versions still load."""

    split: Literal["val", "test"] = "test"
    """The split whose segments are reconstructed. Choose settings on val; test is for the report."""
    conditions: tuple[str, ...] | None = None
    """Which conditions of conditions.IMAGE_CONDITIONS to draw; null: all that the run's exports allow."""
    samples: int = 1
    """Images per segment, each from noise of its own."""
    strength: float = 0.75
    """Share of the noise schedule that the saliency map is noised up to before denoising: at 1 nothing of the map is
    left, near 0 all of it.
    """
    guidance: float = 5.0
    """Scale of classifier-free guidance; 1: none."""
    steps: int = 20
    """Timesteps of the schedule; strength × steps of them are taken from a saliency map."""
    scheduler: str = "dpm-solver++"
    """The noise scheduler: a name of schedulers.SCHEDULERS."""
    seed: int = 0
    """Of the noise."""
    batch_size: int | None = None
    """Images drawn at once on a device; null: 32, or fewer where a GPU's free memory requires it. Changes speed, and
    the images by rounding only.
    """
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the U-Net; VAE and text encoder stay in float32."""
    compile: bool = False
    """torch.compile the U-Net and the VAE's decoder: worth the minutes it takes where a GPU draws many images. Needs a
    C++ compiler or a GPU's Triton. Changes speed, and the images by rounding only.
    """
    saliency: str = "saliency"
    """The run's stage that makes saliency maps."""
    semantic: str = "semantic"
    """The run's stage that predicts hidden states of class captions."""
    semantic_detailed: str = "semantic_detailed"
    """The run's stage that predicts hidden states of detailed captions, if there is one."""
    fine_tuned: str = "diffusion"
    """The run's stage that fine-tuned the U-Net, if there is one."""

    def __post_init__(self) -> None:
        try:
            require_finite(self)
        except ValueError as error:
            raise ValueError(f"reconstruct.{error}") from None
        for name in self.conditions or ():
            if name not in IMAGE_CONDITIONS:
                raise ValueError(f"reconstruct.conditions: {unknown_condition(name)}")
        if self.scheduler not in SCHEDULERS:
            raise ValueError(f"reconstruct.scheduler: {SCHEDULERS.unknown(self.scheduler)}")
        for name in ("samples", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"reconstruct.{name} must be at least 1, got {getattr(self, name)}")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"reconstruct.batch_size must be at least 1, or null, got {self.batch_size}")
        if not 0.0 < self.strength <= 1.0:
            raise ValueError(f"reconstruct.strength must lie in (0, 1], got {self.strength}")
        if num_denoising_steps(self.steps, self.strength) < 1:
            raise ValueError(
                f"reconstruct.strength {self.strength} × reconstruct.steps {self.steps} leaves no denoising step; "
                "raise one of them"
            )
        if not 1.0 <= self.guidance < math.inf:
            raise ValueError(
                f"reconstruct.guidance must be a finite number, at least 1 (no guidance), got {self.guidance}"
            )
