"""The vae_latent stage: EEG → the VAE latent of the stimulus, by regression (ATM's low-level branch, Li et al. 2024).

Its export gives a start for denoising, in place of the GAN's saliency map.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroimagen.data_shards.loading.reader import Batch
from neuroimagen.trainer.batches.augmentation import augment_eeg
from neuroimagen.trainer.batches.stage_data import BatchNeeds, StageData
from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder, Finetuned
from neuroimagen.trainer.networks.model_folder_unet import latent_scaling
from neuroimagen.trainer.networks.pretrained import PretrainedModule
from neuroimagen.trainer.networks.randomness import StepRandom
from neuroimagen.trainer.networks.vae_latent import LatentHead, VaeLatentModel
from neuroimagen.trainer.stages.base import (
    Loss,
    Phase,
    SampledStage,
    Sampler,
    Selection,
    StageContext,
    begin_encoder,
    fit_encoder_normalisation,
    network_of,
)
from neuroimagen.trainer.stages.config import SampledStageConfig
from neuroimagen.trainer.stages.validation.segment_figures import SegmentFigures


@dataclass(frozen=True, kw_only=True)
class VaeLatentConfig(SampledStageConfig):
    """The recipe's `vae_latent` section."""

    loss: Literal["l1", "l2"] = "l1"
    """Mean absolute or squared difference of latents, in units of each channel's spread. l1 is ATM's."""
    batch_size: int = 64
    """Segments of a step, over all ranks."""
    head: LatentHead = "deconvolution"
    """deconvolution: a linear map to a small grid, then transposed convolutions. linear: one map to all entries."""
    grid_size: int = 4
    """deconvolution: smallest side of the grid; ATM's is 1."""
    head_width: int = 256
    """deconvolution: channels of the grid, halved with every doubling of its size."""
    head_dropout: float = 0.5
    """Share of the grid's entries (linear: of the features) that are zeroed in training."""
    initialise_from: str | None = None
    """Stage of the same run (`masked`, `contrastive`, `alignment`), or folder of another run's, whose exported encoder
    f_θ starts from; null: from scratch.
    """
    finetune_encoder: Finetuned = True
    """Train f_θ with the head; subject_layers: of f_θ only the subjects' maps."""


class VaeLatentStage(SampledStage):
    name = "vae_latent"
    Config = VaeLatentConfig
    after = ("masked", "contrastive", "alignment")
    selection = Selection("r2", "max")

    def __init__(
        self,
        config: VaeLatentConfig,
        *,
        encoder: dict[str, Any],
        initial_encoder: EEGEncoder | None,
        latent_shape: tuple[int, int, int],
        scaling_factor: float,
        shift: float = 0.0,
        sampler: Sampler | None = None,
    ) -> None:
        """scaling_factor, shift: of the VAE. `sampler`: for `draw`."""
        self.config: VaeLatentConfig = config
        self._sampler = sampler
        model = VaeLatentModel(
            encoder=encoder,
            latent_shape=latent_shape,
            scaling_factor=scaling_factor,
            shift=shift,
            head=config.head,
            grid_size=config.grid_size,
            head_width=config.head_width,
            head_dropout=config.head_dropout,
        )
        self._fit_normalisation = begin_encoder(model.encoder, initial_encoder, config.finetune_encoder)
        self.networks = {"model": model}
        self.phases = (Phase("model", self._loss),)

    @classmethod
    def build(cls, config: VaeLatentConfig, context: StageContext) -> Self:
        assert context.shapes.latent_shape is not None
        scaling_factor, shift = latent_scaling(context.model)
        return cls(
            config,
            encoder=context.encoder,
            initial_encoder=context.start_encoder(),
            latent_shape=context.shapes.latent_shape,
            scaling_factor=scaling_factor,
            shift=shift,
            sampler=context.make_sampler(config),
        )

    @classmethod
    def batch_needs(cls, config: VaeLatentConfig) -> BatchNeeds:
        return BatchNeeds(latents=("vae",))

    @classmethod
    def starts_from(cls, config: VaeLatentConfig) -> str | None:
        return config.initialise_from

    @property
    def _model(self) -> VaeLatentModel:
        return network_of(self.networks, VaeLatentModel)

    def prepare(self, data: StageData) -> None:
        if self._fit_normalisation:
            fit_encoder_normalisation(self._model.encoder, data)
        self._model.fit_targets(data.latents["vae"], data.dataset.index.stimulus[data.rows("train")])

    def _loss(self, networks: Mapping[str, nn.Module], batch: Batch, random: StepRandom) -> Loss:
        eeg = augment_eeg(batch.eeg, self.config.augment, random)
        predicted, target = self._pair(networks, eeg, batch)
        distance = F.l1_loss if self.config.loss == "l1" else F.mse_loss
        return distance(predicted, target), {}

    def _pair(self, networks: Mapping[str, nn.Module], eeg: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Predicted and true latents [B, C, h, w], standardised."""
        model = self._model
        predicted = networks["model"](eeg, batch.subject).float()
        return model.standardised(predicted), model.standardised(model.scaled(batch.latents["vae"]))

    @torch.no_grad()
    def validate(self, networks: Mapping[str, nn.Module], data: StageData) -> SegmentFigures:
        """How well latents of the validation split are predicted, standardised by the training split's.

        r2: 1 − Σ‖ẑ − z‖² / Σ‖z‖², 0 for predicting the mean latent; it selects the weights. correlation: mean of the
        segments' cosines of ẑ and z, which tells patterns whatever their amplitude.
        """
        rows = data.rows("val")
        parts = [torch.empty(0, 3, device=data.device)]
        for batch in data.batches(data.share(rows), 64):
            predicted, target = (latents.flatten(1) for latents in self._pair(networks, batch.eeg, batch))
            error = (predicted - target).square().sum(1)
            parts.append(torch.stack([error, target.square().sum(1), F.cosine_similarity(predicted, target)], dim=1))
        error, total, correlation = data.gather(torch.cat(parts)).double().numpy().T
        # The mean over segments of each one's share is the r² of all.
        values = {"r2": 1 - error / max(float(np.mean(total)), 1e-12), "correlation": correlation}
        return SegmentFigures(rows=rows, stimuli=data.dataset.index.stimulus[rows], values=values)

    def draw(self, networks: Mapping[str, nn.Module], eeg: Tensor, subject: Tensor, rows: np.ndarray) -> np.ndarray:
        """What the VAE decodes of the predicted latents."""
        assert self._sampler is not None
        return self._sampler.decode(networks["model"](eeg, subject).float())

    def exported(self, networks: Mapping[str, nn.Module]) -> PretrainedModule:
        return network_of(networks, VaeLatentModel)
