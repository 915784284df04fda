"""The networks that images are drawn with: the exports of a run's stages and a frozen latent diffusion model."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.ip_adapter import IPAdapterConfig
from neuroimagen.trainer.networks.alignment import AlignmentModel
from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder
from neuroimagen.trainer.networks.gan import SaliencyModel
from neuroimagen.trainer.networks.prior import PriorModel
from neuroimagen.trainer.networks.semantic import SemanticModel
from neuroimagen.trainer.networks.vae_latent import VaeLatentModel
from neuroimagen.trainer.reconstruction.pipelines.generator import Generator


class Networks:
    """Loads each network when it is first asked for, and keeps it."""

    def __init__(
        self,
        model: Path,
        *,
        eeg_shape: tuple[int, int],
        device: torch.device,
        dtype: torch.dtype,
        compile_unet: bool,
        adapters: Mapping[str, IPAdapterConfig],
    ) -> None:
        """`model`: a folder in diffusers' layout. eeg_shape: channels and samples that the data set has.

        dtype: of the U-Net. compile_unet: torch.compile the U-Net and the VAE's decoder. adapters: the recipe's
        model.ip_adapters.
        """
        self.model = model
        self.adapters = adapters
        self.eeg_shape = eeg_shape
        self.device = device
        self.dtype = dtype
        self.compile_unet = compile_unet
        self._loaded: dict[tuple[str, Path | None], Any] = {}

    def generator(self, unet: Path | None = None) -> Generator:
        """The latent diffusion model, with the fine-tuned U-Net of the folder `unet` in place of its own if given."""

        def load() -> Generator:
            return Generator(
                self.model,
                device=self.device,
                dtype=self.dtype,
                unet=unet,
                adapters=self.adapters,
                compile_backend="inductor" if self.compile_unet else None,
            )

        model: Generator = self._once("generator", unet, load)
        return model

    def saliency(self, export: Path) -> SaliencyModel:
        """The saliency stage's networks. Raises UserError where they read EEG of another shape than the data set's."""

        def load() -> SaliencyModel:
            model = SaliencyModel.from_pretrained(export, device=self.device)
            self._require_same_eeg(model.encoder, export)
            return model

        model: SaliencyModel = self._once("saliency", export, load)
        return model

    def semantic(self, export: Path) -> SemanticModel:
        """A semantic stage's network. Raises UserError where it reads EEG of another shape than the data set's, or
        predicts hidden states of another shape than the text encoder's.
        """

        def load() -> SemanticModel:
            model = SemanticModel.from_pretrained(export, device=self.device)
            self._require_same_eeg(model.encoder, export)
            if model.text_shape != self.generator().text_shape:
                raise UserError(
                    f"{export} predicts hidden states of shape {model.text_shape}, the text encoder of {self.model} "
                    f"has {self.generator().text_shape}. Use the model that it was trained for."
                )
            return model

        model: SemanticModel = self._once("semantic", export, load)
        return model

    def alignment(self, export: Path, *, fit_lengths: Callable[[AlignmentModel], None]) -> AlignmentModel:
        """The alignment stage's network. Raises UserError where it reads EEG of another shape than the data set's.

        fit_lengths: called for an export of an earlier version, which does not say how long image embeddings are.
        """

        def load() -> AlignmentModel:
            model = AlignmentModel.from_pretrained(export, device=self.device)
            self._require_same_eeg(model.encoder, export)
            if not model.has_lengths:
                fit_lengths(model)
            return model

        model: AlignmentModel = self._once("alignment", export, load)
        return model

    def prior(self, export: Path) -> PriorModel:
        """The prior that makes image embeddings of predicted ones."""

        def load() -> PriorModel:
            return PriorModel.from_pretrained(export, device=self.device)

        model: PriorModel = self._once("prior", export, load)
        return model

    def vae_latent(self, export: Path) -> VaeLatentModel:
        """The network that predicts VAE latents. Raises UserError where it reads EEG of another shape than the data
        set's, or predicts latents of another shape than the model's.
        """

        def load() -> VaeLatentModel:
            model = VaeLatentModel.from_pretrained(export, device=self.device)
            self._require_same_eeg(model.encoder, export)
            if model.latent_shape != self.generator().latent_shape:
                raise UserError(
                    f"{export} predicts latents of shape {model.latent_shape}, those of {self.model} have "
                    f"{self.generator().latent_shape}. Use the model that it was trained for."
                )
            return model

        model: VaeLatentModel = self._once("vae_latent", export, load)
        return model

    def _once(self, kind: str, folder: Path | None, load: Callable[[], Any]) -> Any:
        if (kind, folder) not in self._loaded:
            self._loaded[kind, folder] = load()
        return self._loaded[kind, folder]

    def _require_same_eeg(self, encoder: EEGEncoder, export: Path) -> None:
        n_channels, n_samples = self.eeg_shape
        if (encoder.n_channels, encoder.n_samples) != self.eeg_shape:
            raise UserError(
                f"{export} reads EEG of {encoder.n_channels} channels × {encoder.n_samples} samples, the data set has "
                f"{n_channels} × {n_samples}. Reconstruct the data that it was trained on."
            )
