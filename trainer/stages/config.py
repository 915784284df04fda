"""What the recipe's section of every stage has."""

from dataclasses import dataclass, field, fields
from typing import Literal

from neuroimagen.data_shards.common.numbers import require_finite
from neuroimagen.trainer.batches.augmentation import AugmentConfig

COUNTS = frozenset(
    {
        *("steps", "batch_size", "log_every", "validate_every", "checkpoint_every", "keep_checkpoints"),
        *("gradient_accumulation", "hidden_size", "noise_size", "generator_hidden_size", "generator_width"),
        *("discriminator_width", "decoder_width", "decoder_depth", "lora_rank", "head_width", "grid_size"),
        *("time_size", "num_layers", "num_heads", "sampling_steps", "smoothed_over"),
    }
)
"""Fields of the stages that must be at least 1."""


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """What every stage's section of the recipe has."""

    steps: int = 10_000
    """Optimiser steps."""
    learning_rate: float = 1e-3
    """Peak of AdamW's learning rate."""
    warmup_steps: int = 100
    """Steps of linear warm-up before the cosine decay."""
    final_learning_rate_fraction: float = 0.01
    """The cosine ends at this part of the peak."""
    weight_decay: float = 0.01
    adam_betas: tuple[float, float] = (0.9, 0.999)
    gradient_clip: float | None = 1.0
    """Largest norm of the gradient; null for no clipping."""
    select: Literal["best", "smoothed", "last"] = "best"
    """Which weights are exported. best: of the validation with the best figure. smoothed: of the one with the best mean
    over itself and those just before it (`smoothed_over`), since the best of a noisy curve is mostly its noise: on 32
    segments the standard error of an accuracy is 9 points. last: of the last step; validation chooses nothing.
    """
    smoothed_over: int = 5
    """With `smoothed`: validations that each mean is over."""
    ema_decay: float | None = None
    """Decay of an exponential moving average of the weights, used for validation and export; null for none."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed's ZeRO: 1 shards the optimiser over ranks, 2 the gradients too, 3 the weights too (gathered for
    validation, samples and the export only).
    """
    offload_optimizer: bool = False
    """Keep the optimiser's state, and its step, in the CPU's memory; needs ZeRO 1 or more."""
    gradient_accumulation: int = 1
    """Micro-batches that a rank's share of a batch is divided into, one after the other, for one optimiser step."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 on GPUs that have it, fp32 elsewhere. fp16 scales the loss by itself. Weights stay float32."""
    compile: bool = False
    """torch.compile the networks' training passes: it takes minutes to compile, and pays where a GPU waits for kernels
    to be launched. Needs ZeRO 2 or less, and for `inductor` a C++ compiler or a GPU's Triton.
    """
    compile_backend: Literal["inductor", "aot_eager", "eager"] = "inductor"
    """Of torch.compile; the eager ones make nothing faster and show what does not compile."""
    on_bad_loss: Literal["stop", "skip"] = "stop"
    """What to do about a loss that is not finite or diverges: end the run, or leave the batch out and say so."""
    max_skipped: int = 20
    """With `skip`: batches left out in the whole run before it ends all the same."""
    divergence_factor: float | None = 1000.0
    """A loss this many times its median of the last 50 steps counts as diverging; null for no such limit."""
    log_every: int = 10
    validate_every: int = 500
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    """Older ones are deleted after a new one is complete."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        require_finite(self)
        for name in (item.name for item in fields(self)):
            value = getattr(self, name)
            if name in COUNTS and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
            if name.endswith("learning_rate") and value <= 0:
                raise ValueError(f"{name} must be positive, got {value}")
            if name.endswith("dropout") and not 0 <= value < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {value}")
        if self.weight_decay < 0 or self.warmup_steps < 0 or self.max_skipped < 0:
            raise ValueError("weight_decay, warmup_steps and max_skipped must be at least 0")
        if not all(0 <= beta < 1 for beta in self.adam_betas):
            raise ValueError(f"adam_betas must lie in [0, 1), got {list(self.adam_betas)}")
        if not 0 <= self.final_learning_rate_fraction <= 1:
            raise ValueError(
                f"final_learning_rate_fraction must lie in [0, 1], got {self.final_learning_rate_fraction}"
            )
        if self.offload_optimizer and self.zero_stage == 0:
            raise ValueError("offload_optimizer needs zero_stage 1 or more")
        if self.compile and self.zero_stage == 3:
            raise ValueError("compile needs zero_stage 2 or less: ZeRO 3 gathers weights in the middle of the networks")
        if self.on_bad_loss == "skip" and self.gradient_accumulation > 1:
            raise ValueError("on_bad_loss: skip needs gradient_accumulation 1: parts of a batch cannot be taken back")
        if self.divergence_factor is not None and self.divergence_factor <= 1:
            raise ValueError(f"divergence_factor must be above 1, or null for none; got {self.divergence_factor}")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie between 0 and 1, or be null for none; got {self.ema_decay}")
        if self.gradient_clip is not None and self.gradient_clip <= 0:
            raise ValueError(f"gradient_clip must be positive, or null for none; got {self.gradient_clip}")


@dataclass(frozen=True, kw_only=True)
class SampledStageConfig(StageConfig):
    """What the section of a stage has that can draw while it trains."""

    sample_every: int | None = None
    """Steps from one drawing of validation segments to the next, in samples/ and TensorBoard; null for none."""
    num_samples: int = 8
    """Validation segments that are drawn, always the same."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_samples < 1 or (self.sample_every is not None and self.sample_every < 1):
            raise ValueError("num_samples and sample_every must be at least 1 (sample_every: null for none)")


@dataclass(frozen=True, kw_only=True)
class EnsembleConfig:
    """Several networks whose probabilities are averaged: of the folds of a cross-validation, of seeds, of encoders."""

    folds: int | None = None
    """Folds of the training and validation segments together; each network is validated on one and trained on the
    others. So every segment is trained on, and every one is predicted by networks that have not seen it. By stimulus
    where every class has as many stimuli as folds, else by segment, in stretches of recording time. null: no
    cross-validation; every network has the data set's own splits.
    """
    seeds: int = 1
    """Networks of each fold and encoder, which differ in the seed."""
    encoders: tuple[str, ...] = ()
    """Kinds of encoder that are trained, with their defaults; empty: the recipe's `encoder` alone. The weights of their
    probabilities are those that predict the validation segments best (by likelihood).
    """

    def __post_init__(self) -> None:
        if self.folds is not None and self.folds < 2:
            raise ValueError(f"ensemble.folds must be at least 2, or null for none; got {self.folds}")
        if self.seeds < 1:
            raise ValueError(f"ensemble.seeds must be at least 1, got {self.seeds}")
        if len(set(self.encoders)) < len(self.encoders):
            raise ValueError(f"ensemble.encoders names one twice: {list(self.encoders)}")

    @property
    def is_asked_for(self) -> bool:
        """Whether there is more than one network, or a cross-validation."""
        return self.folds is not None or self.seeds > 1 or len(self.encoders) > 0
