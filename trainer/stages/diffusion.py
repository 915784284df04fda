"""The diffusion stage: fine-tunes the U-Net's cross-attention, or LoRA on it, with EEG in place of the caption.

On cached VAE latents; the loss is the squared error of the predicted noise (or velocity, as the model's scheduler says)
with min-SNR weights. The condition is dropped now and then, for classifier-free guidance. Optionally the features are
drawn towards the CLIP image embedding of the stimulus (DreamDiffusion, Bai et al. 2023).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroimagen.data_shards.loading.reader import Batch
from neuroimagen.trainer.batches.augmentation import augment_eeg
from neuroimagen.trainer.batches.stage_data import BatchNeeds, StageData
from neuroimagen.trainer.networks.eeg_unet import EEGDiffusion, NoiseSchedule, Trained, choose_trained
from neuroimagen.trainer.networks.model_folder_unet import load_unet, require_trainable_unet
from neuroimagen.trainer.networks.pretrained import PretrainedModule
from neuroimagen.trainer.networks.randomness import StepRandom
from neuroimagen.trainer.networks.semantic import SemanticModel
from neuroimagen.trainer.stages.base import Loss, Phase, SampledStage, Sampler, Selection, StageContext
from neuroimagen.trainer.stages.config import SampledStageConfig

VALIDATION_DRAWS = 4
"""Timesteps and noises that each validation segment is measured at; always the same."""


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig(SampledStageConfig):
    """The recipe's `diffusion` section."""

    learning_rate: float = 1e-4
    ema_decay: float | None = 0.999
    batch_size: int = 64
    """Segments of a step, over all ranks."""
    trained: Trained = "cross-attention"
    """Which weights of the U-Net: its cross-attention, LoRA on that (peft), or all."""
    lora_rank: int = 8
    min_snr_gamma: float | None = 5.0
    """γ of the loss's weights; null for none."""
    condition_dropout: float = 0.1
    """Share of segments whose condition is the empty caption's."""
    alignment_weight: float = 0.0
    """Weight of 1 − cos(projected features, CLIP image embedding); needs `neuroimagen cache --kinds image`."""
    initialise_from: Literal["semantic", "semantic_detailed"] = "semantic"
    """Stage of the same run whose exported model turns EEG into hidden states."""
    finetune_condition: bool = True
    """Train that model with the U-Net."""
    activation_checkpointing: bool = False
    """Compute the U-Net's activations again in the backward pass: far less memory, a third more time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alignment_weight < 0:
            raise ValueError(f"alignment_weight must be at least 0, got {self.alignment_weight}")
        if self.min_snr_gamma is not None and self.min_snr_gamma <= 0:
            raise ValueError(f"min_snr_gamma must be positive, or null for none; got {self.min_snr_gamma}")


class DiffusionStage(SampledStage):
    name = "diffusion"
    Config = DiffusionConfig
    Start = SemanticModel
    after = ("semantic", "semantic_detailed")
    selection = Selection("loss", "min")

    def __init__(
        self,
        config: DiffusionConfig,
        *,
        semantic: SemanticModel,
        unet: nn.Module,
        schedule: NoiseSchedule,
        scaling_factor: float,
        embedding_size: int | None,
        model_folder: Path | None,
        sampler: Sampler | None = None,
    ) -> None:
        """`sampler`: for `draw`."""
        self._sampler = sampler
        self.config: DiffusionConfig = config
        self._schedule = schedule
        self._scaling_factor = scaling_factor
        self._model_folder = model_folder
        semantic.requires_grad_(config.finetune_condition)
        choose_trained(unet, config.trained, lora_rank=config.lora_rank)
        if config.activation_checkpointing:
            unet.enable_gradient_checkpointing()  # type: ignore[operator]
        aligned = embedding_size if config.alignment_weight else None
        self.networks = {"model": EEGDiffusion(semantic=semantic, unet=unet, embedding_size=aligned)}
        self.phases = (Phase("model", self._loss),)

    @classmethod
    def build(cls, config: DiffusionConfig, context: StageContext) -> Self:
        assert isinstance(context.start, SemanticModel)
        assert context.shapes.latent_shape is not None
        unet = load_unet(context.model, latent_shape=context.shapes.latent_shape, text_shape=context.shapes.text_shape)
        return cls(
            config,
            semantic=context.start.train(),
            unet=unet.network.train(),
            schedule=unet.schedule,
            scaling_factor=unet.scaling_factor,
            embedding_size=context.shapes.of_latent("image")[0] if config.alignment_weight else None,
            model_folder=unet.folder,
            sampler=context.make_sampler(config),
        )

    @classmethod
    def batch_needs(cls, config: DiffusionConfig) -> BatchNeeds:
        return BatchNeeds(latents=("vae", "image") if config.alignment_weight else ("vae",))

    @classmethod
    def check_model(cls, config: DiffusionConfig, folder: Path) -> None:
        require_trainable_unet(folder)

    @classmethod
    def starts_from(cls, config: DiffusionConfig) -> str | None:
        return config.initialise_from

    def prepare(self, data: StageData) -> None:
        """Encode the empty caption, once."""
        from neuroimagen.data_shards.frozen_models.text import TextEncoder

        model = self.networks["model"]
        assert isinstance(model, EEGDiffusion)
        assert self._model_folder is not None
        hidden = TextEncoder(self._model_folder, device=torch.device("cpu")).encode([""])[0]
        model.unconditional.copy_(hidden[0])

    def _latents(self, posterior: Tensor, noise: Tensor) -> Tensor:
        """A draw from the cached posterior [B, 2, C, h, w] (mean, standard deviation), scaled as the U-Net expects."""
        mean, std = posterior.unbind(1)
        return (mean + std * noise) * self._scaling_factor

    def _errors(
        self,
        predicted: Tensor,
        latents: Tensor,
        noise: Tensor,
        timesteps: Tensor,
    ) -> Tensor:
        """Weighted squared error [B]."""
        target = self._schedule.target(latents, noise, timesteps)
        errors = (predicted.float() - target).square().mean(dim=(1, 2, 3))
        gamma = self.config.min_snr_gamma
        return errors if gamma is None else errors * self._schedule.min_snr_weight(timesteps, gamma)

    def _loss(self, networks: Mapping[str, nn.Module], batch: Batch, random: StepRandom) -> Loss:
        config, schedule = self.config, self._schedule
        eeg = augment_eeg(batch.eeg, config.augment, random)
        posterior = batch.latents["vae"]
        shape = posterior.shape[2:]
        latents = self._latents(posterior, random.normal("posterior", *shape))
        noise = random.normal("noise", *shape)
        timesteps = (random.uniform("timestep") * schedule.num_timesteps).long()
        dropped = random.uniform("condition") < config.condition_dropout
        noisy = schedule.add_noise(latents, noise, timesteps)
        predicted, aligned = networks["model"](eeg, noisy, timesteps, dropped, batch.subject)
        loss = self._errors(predicted, latents, noise, timesteps).mean()
        if aligned is None:
            return loss, {}
        alignment = 1 - F.cosine_similarity(aligned.float(), batch.latents["image"], dim=1).mean()
        return loss + config.alignment_weight * alignment, {"alignment": alignment.detach()}

    @torch.no_grad()
    def validate(self, networks: Mapping[str, nn.Module], data: StageData) -> dict[str, float]:
        """The loss on the validation part, at timesteps and noises that depend on the segment alone; and by how much
        the EEG lowers it below that of the empty caption (`condition_gain`; 0: the EEG is not used).
        """
        results = [torch.empty(0, 2, device=data.device)]
        for batch in data.batches(data.share(data.rows("val")), 32):
            posterior = batch.latents["vae"]
            for draw in range(VALIDATION_DRAWS):
                noise, timesteps = self._fixed_draws(batch.rows, posterior.shape[2:], draw, data.device)
                latents = self._latents(posterior, torch.zeros_like(noise))
                noisy = self._schedule.add_noise(latents, noise, timesteps)
                errors = []
                for drop in (False, True):
                    dropped = torch.full_like(timesteps, drop, dtype=torch.bool)
                    predicted, _ = networks["model"](batch.eeg, noisy, timesteps, dropped, batch.subject)
                    errors.append(self._errors(predicted, latents, noise, timesteps))
                results.append(torch.stack(errors, dim=1))
        loss, without = data.gather(torch.cat(results)).double().mean(0).tolist()
        return {"loss": loss, "condition_gain": without - loss}

    def _fixed_draws(self, rows: Tensor, shape: torch.Size, draw: int, device: torch.device) -> tuple[Tensor, Tensor]:
        noises, timesteps = [], []
        for row in rows.tolist():
            generator = torch.Generator().manual_seed(row * VALIDATION_DRAWS + draw)
            noises.append(torch.randn(*shape, generator=generator))
            # One from each quarter of the schedule.
            place = (draw + torch.rand((), generator=generator).item()) / VALIDATION_DRAWS
            timesteps.append(int(place * self._schedule.num_timesteps))
        return torch.stack(noises).to(device), torch.tensor(timesteps, device=device)

    def draw(self, networks: Mapping[str, nn.Module], eeg: Tensor, subject: Tensor, rows: np.ndarray) -> np.ndarray:
        """Images of the U-Net as it is, from noise alone."""
        model = networks["model"]
        assert isinstance(model, EEGDiffusion)
        assert self._sampler is not None
        return self._sampler.draw(model.semantic(eeg, subject), rows, unet=model.unet)

    def exported(self, networks: Mapping[str, nn.Module]) -> PretrainedModule:
        model = networks["model"]
        assert isinstance(model, EEGDiffusion)
        return model
