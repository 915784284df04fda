"""What a stage is: the networks it trains, the batches it needs, its losses, its validation figure.

The loop (trainer/training/loop.py) does the rest, the same for every stage.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from neuroimagen.data_shards.loading.plan import Plan
from neuroimagen.data_shards.loading.reader import Batch
from neuroimagen.trainer.batches.stage_data import BatchNeeds, StageData
from neuroimagen.trainer.networks.encoders.base import EEGEncoder
from neuroimagen.trainer.networks.pretrained import PretrainedModule
from neuroimagen.trainer.networks.randomness import StepRandom


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Changes made to training segments; each sample draws its own."""

    shift_samples: int = 0
    """Each segment moves in time by up to this many samples either way; the border value is repeated."""
    scale_std: float = 0.0
    """Each segment's amplitude is multiplied by 1 + this × a normal number."""
    drop_channels: float = 0.0
    """Share of channels set to their mean."""

    def __post_init__(self) -> None:
        if self.shift_samples < 0 or self.scale_std < 0 or not 0 <= self.drop_channels < 1:
            raise ValueError("augment: shift_samples and scale_std must be at least 0, drop_channels in [0, 1)")


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
    ema_decay: float | None = None
    """Decay of an exponential moving average of the weights, used for validation and export; null for none."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed's ZeRO: 1 shards the optimiser over ranks, 2 the gradients too, 3 the weights and their moving average
    too. At 3 each rank's device holds whole weights during validation, samples and the export only.
    """
    offload_optimizer: bool = False
    """Keep the optimiser's state, and its step, in the CPU's memory; needs ZeRO 1 or more."""
    gradient_accumulation: int = 1
    """Parts that a rank's share of a batch is cut into, one after the other, for one optimiser step."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 on GPUs that have it, fp32 elsewhere. fp16 scales the loss by itself. Weights stay float32."""
    compile: bool = False
    """torch.compile the networks' training passes: worth its minutes where a GPU waits for kernels to be started. Needs
    ZeRO 2 or less, and for `inductor` a C++ compiler or a GPU's Triton.
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
        for name in (
            "steps",
            "log_every",
            "validate_every",
            "checkpoint_every",
            "keep_checkpoints",
            "gradient_accumulation",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.learning_rate <= 0 or self.weight_decay < 0 or self.warmup_steps < 0:
            raise ValueError("learning_rate must be positive, weight_decay and warmup_steps at least 0")
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


Networks = Mapping[str, Callable[..., Tensor]]
Loss = tuple[Tensor, dict[str, Tensor]]
"""A scalar to minimise and figures to log, each a scalar that is averaged over ranks."""


@dataclass(frozen=True)
class Phase:
    """One backward pass and one optimiser step, of one network; the others are frozen meanwhile."""

    network: str
    loss: Callable[[Mapping[str, nn.Module], Batch, StepRandom], Loss]


@dataclass(frozen=True)
class Selection:
    """The validation figure that chooses the exported weights."""

    metric: str
    mode: Literal["max", "min"]

    def better(self, value: float, best: float | None) -> bool:
        return best is None or (value > best if self.mode == "max" else value < best)


class Stage(ABC):
    """A stage of training. Networks are plain modules: the loop wraps them in engines."""

    name: str
    selection: ClassVar[Selection]
    config: StageConfig
    networks: dict[str, nn.Module]
    phases: tuple[Phase, ...]
    """Run in this order, every step."""
    needs: BatchNeeds

    @property
    @abstractmethod
    def global_batch_size(self) -> int:
        """Segments a step, over all ranks."""

    def plan(self, data: StageData, seed: int) -> Plan:
        """The order of the training part, here shuffled; every global batch has `global_batch_size` rows."""
        return data.shuffled(data.rows("train"), seed, self.global_batch_size)

    def check(self, data: StageData) -> None:
        """Raise UserError where validation could not be made of these data."""
        data.rows("val")

    @abstractmethod
    def prepare(self, data: StageData) -> None:
        """Fit what is read off the training part before the first step (normalisations)."""

    @abstractmethod
    def validate(self, networks: Mapping[str, nn.Module], data: StageData) -> dict[str, float]:
        """Figures on the validation part; a collective, the same on every rank. Networks come in evaluation mode."""

    @abstractmethod
    def exported(self, networks: Mapping[str, nn.Module]) -> PretrainedModule:
        """What the stage leaves to later ones."""

    def learning_rate(self, network: str) -> float:
        """Peak learning rate of one of the networks."""
        return self.config.learning_rate


class SampledStage(Stage):
    """A stage that can show what it draws so far."""

    config: SampledStageConfig

    def samples_due(self, step: int) -> bool:
        """Whether to draw after `step` steps."""
        every = self.config.sample_every
        return every is not None and (step % every == 0 or step == self.config.steps)

    @abstractmethod
    def draw(self, networks: Mapping[str, nn.Module], eeg: Tensor, subject: Tensor, rows: np.ndarray) -> np.ndarray:
        """Pictures uint8 [n, 3, S, S] of segments [n, C, T] of subjects [n]; `rows` of the index give the noise."""


NORMALISATION_SEGMENTS = 512
"""Training segments that an encoder's normalisation is fitted on: the error of a mean over 512 × 440 samples is
negligible.
"""


def fit_encoder_normalisation(encoder: EEGEncoder, data: StageData) -> None:
    """Fit an encoder's channel statistics on segments spread evenly over the training part."""
    rows = data.rows("train")
    chosen = rows[:: max(1, len(rows) // NORMALISATION_SEGMENTS)][:NORMALISATION_SEGMENTS]
    encoder.fit_normalisation(batch.eeg for batch in data.batches(chosen, 64, eeg_only=True))


def augment_eeg(eeg: Tensor, config: AugmentConfig, random: StepRandom) -> Tensor:
    """EEG [B, C, T] changed as `config` says; the draws are the samples' own, whatever the number of ranks."""
    if config.shift_samples:
        n_samples = eeg.shape[2]
        span = 2 * config.shift_samples + 1
        shifts = (random.uniform("eeg-shift") * span).long() - config.shift_samples
        source = (torch.arange(n_samples, device=eeg.device) - shifts[:, None]).clamp(0, n_samples - 1)
        eeg = eeg.gather(2, source[:, None, :].expand_as(eeg))
    if config.scale_std:
        eeg = eeg * (1.0 + config.scale_std * random.normal("eeg-scale", 1, 1))
    if config.drop_channels:
        keep = random.uniform("eeg-channels", eeg.shape[1], 1) >= config.drop_channels
        eeg = torch.where(keep, eeg, eeg.mean(dim=2, keepdim=True))
    return eeg


def is_zero_shot(train_labels: np.ndarray, val_labels: np.ndarray) -> bool:
    """Whether no class is in both parts, so that no validation segment can be assigned to one that was trained on."""
    return not np.isin(val_labels, train_labels).any()
