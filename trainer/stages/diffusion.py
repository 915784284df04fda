"""The diffusion stage: fine-tunes the latent diffusion model with EEG in place of the caption.

It trains the U-Net, the weights of IP-Adapters beside the frozen U-Net, or both.

On cached VAE latents; the loss is the squared error of what the model's scheduler says that the U-Net predicts, with
min-SNR weights. Conditions are dropped now and then, for classifier-free guidance. Optionally the features are drawn
towards the CLIP image embedding of the stimulus (DreamDiffusion, Bai et al. 2023).

IP-Adapters (Ye et al. 2023) are trained on image embeddings as reconstruction will give them: predicted from the EEG by
the run's alignment stage, out of fold (trainer/batches/alignment_embeddings.py); or on the stimulus's own.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroimagen.data_shards.frozen_models.ip_adapter import IPAdapterConfig, adapters_of
from neuroimagen.data_shards.frozen_models.model_folder import component_folder, read_config
from neuroimagen.data_shards.loading.plan import Plan
from neuroimagen.data_shards.loading.reader import Batch
from neuroimagen.trainer.batches.alignment_embeddings import NUM_FOLDS, AlignmentEmbeddings
from neuroimagen.trainer.batches.augmentation import augment_eeg
from neuroimagen.trainer.batches.stage_data import BatchNeeds, StageData
from neuroimagen.trainer.networks.adapter_diffusion import AdapterDiffusion
from neuroimagen.trainer.networks.eeg_unet import EEGDiffusion
from neuroimagen.trainer.networks.model_folder_unet import LoadedUNet, load_unet, require_trainable_unet
from neuroimagen.trainer.networks.pretrained import PretrainedModule
from neuroimagen.trainer.networks.randomness import StepRandom
from neuroimagen.trainer.networks.semantic import SemanticModel
from neuroimagen.trainer.stages.base import CrossFit, Loss, Phase, SampledStage, Sampler, Selection, StageContext
from neuroimagen.trainer.stages.diffusion_config import DiffusionConfig
from neuroimagen.trainer.stages.diffusion_networks import STAGE, conditioned_on_eeg, predicted_embeddings, with_adapters

VALIDATION_DRAWS = 4
"""Timesteps and noises that each validation segment is measured at; always the same."""


class DiffusionStage(SampledStage):
    name = STAGE
    Config = DiffusionConfig
    Start = SemanticModel
    after = ("semantic", "semantic_detailed", "alignment")
    selection = Selection("loss", "min")

    def __init__(
        self,
        config: DiffusionConfig,
        *,
        network: EEGDiffusion | AdapterDiffusion,
        unet: LoadedUNet,
        embeddings: Mapping[str, AlignmentEmbeddings] | None = None,
        sampler: Sampler | None = None,
    ) -> None:
        """`network`: around the U-Net of `unet`. embeddings: kind → the predicted embeddings that adapters are trained
        on; a kind that is not there is the stimulus's own. `sampler`: for `draw`.
        """
        self._sampler = sampler
        self.config: DiffusionConfig = config
        self._schedule = unet.schedule
        self._scaling_factor = unet.scaling_factor
        self._model_folder = unet.folder
        self._embeddings = dict(embeddings or {})
        self._run: Path | None = None
        self._data: StageData | None = None
        if config.activation_checkpointing:
            unet.network.enable_gradient_checkpointing()  # type: ignore[operator]
        self.networks = {"model": network}
        self.phases = (Phase("model", self._loss),)

    @classmethod
    def build(cls, config: DiffusionConfig, context: StageContext) -> Self:
        assert context.start is None or isinstance(context.start, SemanticModel)
        assert context.shapes.latent_shape is not None
        unet = load_unet(
            context.model,
            latent_shape=context.shapes.latent_shape,
            text_shape=context.shapes.text_shape,
            with_adapter=config.trains_adapters,
        )
        unet.network.train()
        semantic = None if context.start is None else context.start.train()
        network: EEGDiffusion | AdapterDiffusion
        if config.trains_adapters:
            network = with_adapters(config, context, unet, semantic)
            embeddings = predicted_embeddings(config, context, network.targets.values())
        else:
            assert semantic is not None
            aligned = context.shapes.of_latent("image")[0] if config.alignment_weight else None
            network = conditioned_on_eeg(config, unet, semantic, embedding_size=aligned)
            embeddings = {}
        stage = cls(config, network=network, unet=unet, embeddings=embeddings, sampler=context.make_sampler(config))
        stage._run = context.run
        return stage

    @classmethod
    def batch_needs(cls, config: DiffusionConfig) -> BatchNeeds:
        latents = ("vae", "image") if config.alignment_weight else ("vae",)
        return BatchNeeds(latents=latents, ip_adapters=config.trains_adapters)

    @property
    def needs(self) -> BatchNeeds:
        return super().needs.of_model(adapter_kinds=tuple(self._targets.values()))

    @classmethod
    def check_model(cls, config: DiffusionConfig, folder: Path, ip_adapters: Mapping[str, IPAdapterConfig]) -> None:
        require_trainable_unet(folder, with_adapter=config.trains_adapters)
        if not config.trains_adapters:
            return
        adapters = adapters_of(folder, ip_adapters)
        config.chosen(adapters)
        width = read_config(component_folder(folder, "unet")).whole_number("cross_attention_dim")
        for name, adapter in adapters.items():
            if not adapter.is_new:
                adapter.read().require_width(name, width, folder)

    @classmethod
    def starts_from(cls, config: DiffusionConfig) -> str | None:
        return config.initialise_from

    @classmethod
    def reads(cls, config: DiffusionConfig) -> tuple[str, ...]:
        return (config.alignment,) if config.predicts_embeddings else ()

    @classmethod
    def cross_fit(cls, config: DiffusionConfig) -> CrossFit | None:
        if not config.trains_adapters or config.embeddings != "out_of_fold":
            return None
        return CrossFit(source=config.alignment, num_folds=NUM_FOLDS, steps=config.fold_steps)

    @property
    def _targets(self) -> Mapping[str, str]:
        """Name of each IP-Adapter → kind of image embedding that it takes; {} where none is trained."""
        model = self.networks["model"]
        return model.targets if isinstance(model, AdapterDiffusion) else {}

    def check(self, data: StageData) -> None:
        super().check(data)
        self._data = data

    def plan_warning(self, plan: Plan, data: StageData) -> str | None:
        """Where the embeddings of training are not those that reconstruction will give the adapters."""
        if not self._targets or self._run is None:
            return None
        prior = (self._run / "prior" / "export").is_dir()
        if prior and self.config.predicts_embeddings:
            return (
                "the run has a prior, whose samples images are drawn from, and the IP-Adapter is trained on embeddings "
                "that do not go through it. diffusion.embeddings=stimulus trains on what these samples resemble."
            )
        if not prior and not self.config.predicts_embeddings:
            return (
                "the IP-Adapter is trained on the stimuli's own embeddings; without a prior images are drawn from "
                "predicted ones, which differ from these. diffusion.embeddings=out_of_fold trains on such."
            )
        return None

    def prepare(self, data: StageData) -> None:
        """Encode the empty caption, once, and embed the training segments if they are embedded out of fold."""
        from neuroimagen.data_shards.frozen_models.text import TextEncoder

        model = self.networks["model"]
        assert isinstance(model, EEGDiffusion | AdapterDiffusion)
        assert self._model_folder is not None
        hidden, pooled = TextEncoder(self._model_folder, device=torch.device("cpu")).encode([""])
        model.unconditional.copy_(hidden[0])
        if isinstance(model, AdapterDiffusion) and model.pooled_size is not None:
            assert pooled is not None
            model.unconditional_pooled.copy_(pooled[0])
        if self.config.embeddings == "out_of_fold":
            for embeddings in self._embeddings.values():
                embeddings.of_training(data)

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
        noisy = schedule.add_noise(latents, noise, timesteps)
        draw = random.uniform("condition")
        if not config.trains_adapters:
            dropped = draw < config.condition_dropout
            predicted, aligned = networks["model"](eeg, noisy, timesteps, dropped, batch.subject)
            loss = self._errors(predicted, latents, noise, timesteps).mean()
            if aligned is None:
                return loss, {}
            alignment = 1 - F.cosine_similarity(aligned.float(), batch.latents["image"], dim=1).mean()
            return loss + config.alignment_weight * alignment, {"alignment": alignment.detach()}
        drop_text, drop_image = _dropped(config, draw)
        images = tuple(self._training_embeddings(kind, batch, eeg) for kind in self._targets.values())
        predicted = networks["model"](eeg, noisy, timesteps, images, drop_text, drop_image, batch.subject)
        return self._errors(predicted, latents, noise, timesteps).mean(), {}

    def _training_embeddings(self, kind: str, batch: Batch, eeg: Tensor) -> Tensor:
        """The embeddings [B, E] that a training batch is conditioned on."""
        if kind in self._embeddings:
            return self._embeddings[kind].of_batch(batch, eeg, self._data)
        return batch.latents[kind]

    @torch.no_grad()
    def validate(self, networks: Mapping[str, nn.Module], data: StageData) -> dict[str, float]:
        """The loss on the validation part, at timesteps and noises that depend on the segment alone; and by how much
        the EEG lowers it below that without any condition (`condition_gain`; 0: the EEG is not used). With IP-Adapters
        also by how much the image embedding does, the text being there (`image_gain`).
        """
        # Whether the text, and the image embedding, is dropped.
        drops = [(False, False), (True, True), (False, True)] if self._targets else [(False, False), (True, True)]
        results = [torch.empty(0, len(drops), device=data.device)]
        for batch in data.batches(data.share(data.rows("val")), 32):
            posterior = batch.latents["vae"]
            images = tuple(
                self._embeddings[kind].of(batch.eeg, batch.subject) if kind in self._embeddings else batch.latents[kind]
                for kind in self._targets.values()
            )
            for draw in range(VALIDATION_DRAWS):
                noise, timesteps = self._fixed_draws(batch.rows, posterior.shape[2:], draw, data.device)
                latents = self._latents(posterior, torch.zeros_like(noise))
                noisy = self._schedule.add_noise(latents, noise, timesteps)
                errors = []
                for drop in drops:
                    text, image = (torch.full_like(timesteps, value, dtype=torch.bool) for value in drop)
                    if self._targets:
                        predicted = networks["model"](batch.eeg, noisy, timesteps, images, text, image, batch.subject)
                    else:
                        predicted, _ = networks["model"](batch.eeg, noisy, timesteps, text, batch.subject)
                    errors.append(self._errors(predicted, latents, noise, timesteps))
                results.append(torch.stack(errors, dim=1))
        loss, *others = data.gather(torch.cat(results)).double().mean(0).tolist()
        gains = zip(("condition_gain", "image_gain"), others, strict=False)
        return {"loss": loss} | {name: other - loss for name, other in gains}

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
        assert self._sampler is not None
        if isinstance(model, EEGDiffusion):
            return self._sampler.draw(model.semantic(eeg, subject), rows, unet=model.unet)
        assert isinstance(model, AdapterDiffusion)
        hidden, pooled = model.text(eeg, torch.zeros(len(eeg), dtype=torch.bool, device=eeg.device), subject)
        image = {name: self._validation_embeddings(kind, eeg, subject, rows) for name, kind in model.targets.items()}
        return self._sampler.draw(hidden, rows, pooled=pooled, unet=model.unet, image=image)

    def _validation_embeddings(self, kind: str, eeg: Tensor, subject: Tensor, rows: np.ndarray) -> Tensor:
        """The embeddings [n, E] of segments in `rows` of the index that were not trained on."""
        if kind in self._embeddings:
            return self._embeddings[kind].of(eeg, subject)
        assert self._data is not None
        return self._data.latents[kind].get(self._data.dataset.index.stimulus[rows]).to(eeg.device)

    def exported(self, networks: Mapping[str, nn.Module]) -> PretrainedModule:
        model = networks["model"]
        assert isinstance(model, EEGDiffusion | AdapterDiffusion)
        return model


def _dropped(config: DiffusionConfig, draw: Tensor) -> tuple[Tensor, Tensor]:
    """Whether the text, and whether the image embedding, is dropped [B], by uniform numbers [B].

    The shares lie side by side: image alone, text alone, both.
    """
    image = draw < config.image_dropout
    text = ~image & (draw < config.image_dropout + config.text_dropout)
    both = ~image & ~text & (draw < config.image_dropout + config.text_dropout + config.text_and_image_dropout)
    return text | both, image | both
