"""The saliency stage: a small image of the stimulus's layout, drawn from EEG features by a conditional GAN.

L_D = hinge on images after DiffAugment; L_G = α1·hinge + α2·mode seeking + α3·(1 − SSIM) (Lan et al. 2023, §3.2), and
optionally a pixel term, which the paper does not have: its weight is 0 in the paper's recipe.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from neuroimagen.data_shards.loading.reader import Batch
from neuroimagen.trainer.batches.augmentation import augment_eeg
from neuroimagen.trainer.batches.stage_data import BatchNeeds, StageData
from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder, Finetuned
from neuroimagen.trainer.networks.gan import (
    Discriminator,
    SaliencyModel,
    diff_augment,
    discriminator_hinge,
    generator_hinge,
    mode_seeking,
    pixel_correlation,
    ssim,
)
from neuroimagen.trainer.networks.pixels import to_uint8
from neuroimagen.trainer.networks.pretrained import PretrainedModule
from neuroimagen.trainer.networks.randomness import StepRandom, derive_seed
from neuroimagen.trainer.stages.base import (
    Loss,
    Phase,
    SampledStage,
    Selection,
    StageContext,
    begin_encoder,
    fit_encoder_normalisation,
    network_of,
)
from neuroimagen.trainer.stages.config import SampledStageConfig


@dataclass(frozen=True, kw_only=True)
class SaliencyConfig(SampledStageConfig):
    """The recipe's `saliency` section."""

    learning_rate: float = 3e-4
    adam_betas: tuple[float, float] = (0.5, 0.99)
    discriminator_learning_rate: float = 3e-4
    sample_every: int | None = 500
    """Steps between samples of saliency maps, shown below their stimuli; null for none."""
    batch_size: int = 64
    """Segments of a step, over all ranks."""
    image_size_px: int = 64
    """Side of the saliency map."""
    noise_size: int = 128
    """Length of z."""
    generator_hidden_size: int = 256
    """Units of G's dense layers."""
    generator_width: int = 128
    """Channels of G's smallest layer (8 × 8); halved at every doubling of the side."""
    discriminator_width: int = 64
    """Channels of D's smallest layer (4 × 4); halved at every doubling of the side."""
    adversarial_weight: float = 1.0
    """α1."""
    mode_seeking_weight: float = 1.0
    """α2."""
    ssim_weight: float = 1.0
    """α3."""
    pixel_weight: float = 0.0
    """Weight of mean |image − G|, which the paper does not have: its gradient is steadier in short trainings."""
    initialise_from: str | None = "contrastive"
    """Stage of the same run whose exported encoder f_θ starts from; null: from scratch."""
    finetune_encoder: Finetuned = True
    """Train f_θ with G. The triplet loss keeps the class and drops the layout, which the saliency map needs.
    subject_layers: of f_θ only the subjects' maps.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("adversarial_weight", "mode_seeking_weight", "ssim_weight", "pixel_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.adversarial_weight + self.ssim_weight + self.pixel_weight == 0:
            raise ValueError("at least one of adversarial_weight, ssim_weight and pixel_weight must be positive")
        size = self.image_size_px
        if size < 16 or size & (size - 1):
            raise ValueError(f"image_size_px must be a power of two, at least 16, got {size}")


def pixels(images: Tensor) -> Tensor:
    """uint8 images → float in [-1, 1]."""
    return images.float() / 127.5 - 1.0


class SaliencyStage(SampledStage):
    name = "saliency"
    Config = SaliencyConfig
    after = ("masked", "contrastive", "alignment")
    selection = Selection("ssim", "max")

    def __init__(self, config: SaliencyConfig, *, encoder: dict[str, Any], initial_encoder: EEGEncoder | None) -> None:
        self.config: SaliencyConfig = config
        model = SaliencyModel(
            encoder=encoder,
            noise_size=config.noise_size,
            image_size_px=config.image_size_px,
            width=config.generator_width,
            hidden_size=config.generator_hidden_size,
        )
        self._fit_normalisation = begin_encoder(model.encoder, initial_encoder, config.finetune_encoder)
        discriminator = Discriminator(
            feature_size=model.encoder.feature_size,
            image_size_px=config.image_size_px,
            width=config.discriminator_width,
        )
        self.networks = {"generator": model, "discriminator": discriminator}
        self.phases = (
            Phase("discriminator", self._discriminator_loss),
            Phase("generator", self._generator_loss),
        )

    @classmethod
    def build(cls, config: SaliencyConfig, context: StageContext) -> Self:
        return cls(config, encoder=context.encoder, initial_encoder=context.start_encoder())

    @classmethod
    def batch_needs(cls, config: SaliencyConfig) -> BatchNeeds:
        return BatchNeeds(image_size_px=config.image_size_px)

    @classmethod
    def starts_from(cls, config: SaliencyConfig) -> str | None:
        return config.initialise_from

    def learning_rate(self, network: str) -> float:
        return self.config.discriminator_learning_rate if network == "discriminator" else self.config.learning_rate

    def prepare(self, data: StageData) -> None:
        model = self.networks["generator"]
        assert isinstance(model, SaliencyModel)
        if self._fit_normalisation:
            fit_encoder_normalisation(model.encoder, data)

    def _discriminator_loss(self, networks: Mapping[str, nn.Module], batch: Batch, random: StepRandom) -> Loss:
        eeg = augment_eeg(batch.eeg, self.config.augment, random)
        with torch.no_grad():
            z = random.normal("z-discriminator", self.config.noise_size)
            fake, features = networks["generator"](eeg, z, batch.subject, return_features=True)
        assert batch.images is not None
        real = diff_augment(pixels(batch.images), random, "real")
        fake = diff_augment(fake, random, "fake-discriminator")
        # One call of the network per backward pass: correct at every ZeRO stage, and faster than two.
        scores = networks["discriminator"](torch.cat([real, fake]), features.repeat(2, 1))
        real_scores, fake_scores = scores.chunk(2)
        loss = discriminator_hinge(real_scores, fake_scores)
        figures = {"real_score": real_scores.mean(), "fake_score": fake_scores.mean()}
        return loss, {name: value.detach() for name, value in figures.items()}

    def _generator_loss(self, networks: Mapping[str, nn.Module], batch: Batch, random: StepRandom) -> Loss:
        config = self.config
        eeg = augment_eeg(batch.eeg, config.augment, random)
        draws = 2 if config.mode_seeking_weight > 0 else 1
        z = torch.cat([random.normal(f"z-{draw}", config.noise_size) for draw in range(draws)])
        images, features = networks["generator"](eeg, z, batch.subject, return_features=True)
        first = images[: len(eeg)]
        assert batch.images is not None
        real = pixels(batch.images)
        loss = images.new_zeros(())
        figures: dict[str, Tensor] = {}
        if config.adversarial_weight > 0:
            augmented = diff_augment(first, random, "fake-generator")
            # Detached: the encoder must not lower the loss by changing the features that D is conditioned on.
            figures["adversarial"] = generator_hinge(networks["discriminator"](augmented, features.detach()))
            loss = loss + config.adversarial_weight * figures["adversarial"]
        if config.mode_seeking_weight > 0:
            figures["mode_seeking"] = mode_seeking(first, images[len(eeg) :], *z.chunk(2))
            loss = loss + config.mode_seeking_weight * figures["mode_seeking"]
        if config.ssim_weight > 0:
            figures["ssim"] = ssim(first, real).mean()
            loss = loss + config.ssim_weight * (1.0 - figures["ssim"])
        if config.pixel_weight > 0:
            figures["pixel"] = (first - real).abs().mean()
            loss = loss + config.pixel_weight * figures["pixel"]
        return loss, {name: value.detach() for name, value in figures.items()}

    @torch.no_grad()
    def validate(self, networks: Mapping[str, nn.Module], data: StageData) -> dict[str, float]:
        """Mean SSIM and PixCorr of one saliency map per validation segment with its stimulus, at the map's size."""
        model = networks["generator"]
        rows = data.share(data.rows("val"))
        similarities = [torch.empty(0, 2, device=data.device)]
        for batch in data.batches(rows, 64):
            assert batch.images is not None
            # Noise by row: the same saliency map for a segment whatever the batch or the rank.
            z = torch.stack([row_noise(int(row), self.config.noise_size) for row in batch.rows]).to(data.device)
            images, real = model(batch.eeg, z, batch.subject), pixels(batch.images)
            similarities.append(torch.stack([ssim(images, real), pixel_correlation(images, real)], dim=1))
        mean_ssim, mean_correlation = data.gather(torch.cat(similarities)).double().mean(0).tolist()
        return {"ssim": mean_ssim, "pixcorr": mean_correlation}

    def draw(self, networks: Mapping[str, nn.Module], eeg: Tensor, subject: Tensor, rows: np.ndarray) -> np.ndarray:
        """The saliency maps that validation scores."""
        z = torch.stack([row_noise(row, self.config.noise_size) for row in rows.tolist()]).to(eeg.device)
        return to_uint8(networks["generator"](eeg, z, subject))

    def exported(self, networks: Mapping[str, nn.Module]) -> PretrainedModule:
        return network_of(networks, SaliencyModel, "generator")


def row_noise(row: int, noise_size: int) -> Tensor:
    """Standard normal [noise_size] that belongs to a row of the index."""
    generator = torch.Generator().manual_seed(derive_seed("validation-noise", row))
    return torch.randn(noise_size, generator=generator)
