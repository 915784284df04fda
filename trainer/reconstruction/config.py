"""The recipe's `reconstruct` section."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from neuroimagen.data_shards.common.numbers import require_finite
from neuroimagen.trainer.reconstruction.conditions import IMAGE_CONDITIONS, headline_conditions, unknown_condition
from neuroimagen.trainer.reconstruction.schedulers import SCHEDULERS, num_denoising_steps

BlockScale = float | tuple[float, ...]
PartScale = BlockScale | Mapping[str, BlockScale]
AdapterScale = float | Mapping[str, PartScale | Mapping[str, PartScale]]
"""A number; or by IP-Adapter, by part of the U-Net, or by both, down to a list for the attentions of a block."""
DEFAULT_OBJECTIVE: Mapping[str, float] = {"two_way_clip": 0.4, "accuracy": 0.3, "ssim": 0.3}
"""Metric → weight of what a choice or a search on validation maximises: identification, class and structure."""


@dataclass(frozen=True, kw_only=True)
class ChooseConfig:
    """How the headline condition is chosen: each candidate draws validation segments, and the best by a weighted mean
    of metrics is the headline. Nothing of the test split is read for it.
    """

    conditions: tuple[str, ...] | None = ()
    """The candidates. []: nothing is chosen, the headline is `full`. null: every condition that is drawn from the EEG
    and that the run allows."""
    segments: int | None = 96
    """Validation segments that each candidate draws, spread evenly over stimuli and subjects; null: all."""
    by: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_OBJECTIVE))
    """Metric → weight. The candidate with the highest weighted mean is chosen, the first of equal ones."""

    def __post_init__(self) -> None:
        for name in self.conditions or ():
            if name not in IMAGE_CONDITIONS:
                raise ValueError(f"conditions: {unknown_condition(name)}")
            if name not in (candidates := headline_conditions()):
                raise ValueError(
                    f"conditions: {name} is not drawn from the EEG alone, so it cannot be the headline; choose among "
                    f"{', '.join(candidates)}"
                )
        if self.segments is not None and self.segments < 1:
            raise ValueError(f"segments must be at least 1, or null for all, got {self.segments}")
        if not self.by or not all(0 < weight < math.inf for weight in self.by.values()):
            raise ValueError(f"by needs at least one metric, each with a weight above 0, got {dict(self.by)}")

    @property
    def is_asked_for(self) -> bool:
        """Whether there are candidates to choose among."""
        return self.conditions is None or len(self.conditions) > 0


@dataclass(frozen=True, kw_only=True)
class ReconstructConfig:
    """How images are drawn: which conditions, of which split, with which settings of the sampling loop."""

    RENAMED: ClassVar[Mapping[str, str]] = {"rows": "conditions"}
    """Keys of earlier versions → what they are called now: recipes and runs of earlier versions still load."""

    split: Literal["val", "test"] = "test"
    """The split whose segments are reconstructed. Choose settings on val; test is for the report."""
    conditions: tuple[str, ...] | None = None
    """Which conditions of conditions.IMAGE_CONDITIONS to draw; null: all that the run's exports allow."""
    choose: ChooseConfig = field(default_factory=ChooseConfig)
    """How the headline condition is chosen on the validation split, before anything of the test split is drawn."""
    side_segments: int | None = None
    """Segments of the split, spread evenly over stimuli and subjects, for which all conditions but the headline and
    `neuroimagen` are drawn; the headline and `neuroimagen` are always drawn for all. null: every condition for all. The
    table says which figures are of fewer segments; their intervals are wider.
    """
    samples: int = 1
    """Images per segment, each from noise of its own."""
    strength: float = 0.75
    """Share of the noise schedule that the start (saliency map, predicted latent) is noised up to before denoising: at
    1 nothing of it is left, near 0 all of it.
    """
    guidance: float = 5.0
    """Scale of classifier-free guidance; 0 or 1: none, which is what distilled models such as SDXL-Turbo take."""
    steps: int = 20
    """Timesteps of the schedule; strength × steps of them are taken from a saliency map."""
    scheduler: str | None = "dpm-solver++"
    """The noise scheduler: a name of schedulers.SCHEDULERS; null: the model folder's own."""
    adapter_scale: AdapterScale = 1.0
    """How much the image embedding counts in an IP-Adapter: a number, or one for each adapter, {ip_adapter: 0.8}, or
    by part of the U-Net, {up.block_0: [0.0, 1.0, 0.0], down: 0.5} or {ip_adapter: {up.block_0: 1.0}}, where parts that
    are not named count 0.
    """
    noise_level: int = 0
    """unCLIP: timesteps of noise on the image embedding; 0: none."""
    prior_guidance: float | None = None
    """Guidance of the prior that makes an image embedding of the EEG's; null: the prior's own."""
    prior_steps: int | None = None
    """Sampling steps of the prior; null: the prior's own."""
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
    alignment: str = "alignment"
    """The run's stage that predicts image embeddings, if there is one."""
    prior: str = "prior"
    """The run's stage that makes image embeddings of the predicted ones by diffusion, if there is one."""
    vae_latent: str = "vae_latent"
    """The run's stage that predicts VAE latents, if there is one."""

    def __post_init__(self) -> None:
        try:
            require_finite(self)
        except ValueError as error:
            raise ValueError(f"reconstruct.{error}") from None
        for name in self.conditions or ():
            if name not in IMAGE_CONDITIONS:
                raise ValueError(f"reconstruct.conditions: {unknown_condition(name)}")
        if self.scheduler is not None and self.scheduler not in SCHEDULERS:
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
        if self.guidance != 0.0 and not 1.0 <= self.guidance < math.inf:
            raise ValueError(
                f"reconstruct.guidance must be a finite number, 0 or 1 for no guidance, or above 1, got {self.guidance}"
            )
        self._check_image_settings()
        if self.side_segments is not None and self.side_segments < 1:
            raise ValueError(f"reconstruct.side_segments must be at least 1, or null for all, got {self.side_segments}")

    def _check_image_settings(self) -> None:
        """Raise ValueError for settings of the image embedding that mean nothing."""
        for where, scale in scales(self.adapter_scale):
            if not 0.0 <= scale < math.inf:
                raise ValueError(f"reconstruct.adapter_scale{where} must be a number from 0, got {scale}")
        if not 0 <= self.noise_level < 1000:
            raise ValueError(f"reconstruct.noise_level must be 0 to 999 timesteps, got {self.noise_level}")
        if self.prior_guidance is not None and not 0.0 <= self.prior_guidance < math.inf:
            raise ValueError(f"reconstruct.prior_guidance must be a number from 0, or null, got {self.prior_guidance}")
        if self.prior_steps is not None and self.prior_steps < 1:
            raise ValueError(f"reconstruct.prior_steps must be at least 1, or null, got {self.prior_steps}")


def scales(scale: Any, where: str = "") -> list[tuple[str, float]]:
    """Every number of an adapter scale, each with the keys that lead to it, as ".ip_adapter.up"."""
    if isinstance(scale, Mapping):
        return [item for name, below in scale.items() for item in scales(below, f"{where}.{name}")]
    if isinstance(scale, tuple):
        return [item for below in scale for item in scales(below, where)]
    return [(where, scale)]


def plain_scale(scale: Any) -> Any:
    """An adapter scale as diffusers takes it, which is as JSON has it: tuples become lists."""
    if isinstance(scale, Mapping):
        return {name: plain_scale(below) for name, below in scale.items()}
    return list(scale) if isinstance(scale, tuple) else scale
