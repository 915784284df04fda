"""The diffusion stage: fine-tunes the latent diffusion model with EEG in place of the caption.

It trains the U-Net, the weights of IP-Adapters beside the frozen U-Net, or both.

On cached VAE latents; the loss is the squared error of what the model's scheduler says that the U-Net predicts, with
min-SNR weights. Conditions are dropped now and then, for classifier-free guidance. Optionally the features are drawn
towards the CLIP image embedding of the stimulus (DreamDiffusion, Bai et al. 2023).

IP-Adapters (Ye et al. 2023) are trained on image embeddings as reconstruction will give them: predicted from the EEG by
the run's alignment stage, out of fold (trainer/batches/alignment_embeddings.py); or on the stimulus's own.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.ip_adapter import IPAdapterConfig, adapters_of
from neuroimagen.data_shards.frozen_models.model_folder import component_folder, image_size_px, read_config
from neuroimagen.data_shards.loading.plan import Plan
from neuroimagen.data_shards.loading.reader import Batch
from neuroimagen.trainer.batches.alignment_embeddings import NUM_FOLDS, AlignmentEmbeddings
from neuroimagen.trainer.batches.augmentation import AugmentConfig, augment_eeg
from neuroimagen.trainer.batches.stage_data import BatchNeeds, StageData
from neuroimagen.trainer.bundled_model.location import model_path
from neuroimagen.trainer.networks.adapter_diffusion import AdapterDiffusion, load_adapters
from neuroimagen.trainer.networks.alignment import AlignmentModel
from neuroimagen.trainer.networks.eeg_unet import EEGDiffusion, Trained, choose_trained
from neuroimagen.trainer.networks.model_folder_unet import LoadedUNet, load_unet, require_trainable_unet
from neuroimagen.trainer.networks.pretrained import PretrainedModule
from neuroimagen.trainer.networks.randomness import StepRandom
from neuroimagen.trainer.networks.semantic import SemanticModel
from neuroimagen.trainer.stages.base import CrossFit, Loss, Phase, SampledStage, Sampler, Selection, StageContext
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
    train: Literal["unet", "adapter", "both"] = "unet"
    """What is trained: the U-Net; the weights of IP-Adapters beside the frozen U-Net, which then stand in for the
    recipe's in reconstruction; or both together."""
    trained: Trained = "cross-attention"
    """Which weights of the U-Net: its cross-attention, LoRA on that (peft), or all."""
    lora_rank: int = 8
    min_snr_gamma: float | None = 5.0
    """γ of the loss's weights; null for none."""
    condition_dropout: float = 0.1
    """train: unet: share of segments whose condition is the empty caption's."""
    alignment_weight: float = 0.0
    """train: unet: weight of 1 − cos(projected features, CLIP image embedding); needs `neuroimagen cache --kinds
    image`."""
    initialise_from: Literal["semantic", "semantic_detailed"] | None = "semantic"
    """Stage of the same run whose exported model turns EEG into hidden states; null, with train: adapter: none, the
    text condition is the empty caption."""
    finetune_condition: bool = True
    """Train that model with the U-Net. With train: adapter it stays as it is."""
    adapters: tuple[str, ...] | None = None
    """train: adapter, both: which of model.ip_adapters (`ip_adapter`: the model folder's own) are trained; null: all.
    The others are there with their weights as they are. One whose path is `new` is made by this stage, from the U-Net's
    keys and values for text."""
    embeddings: Literal["out_of_fold", "naive", "stimulus"] = "out_of_fold"
    """The image embeddings that adapters are trained on. out_of_fold: predicted from the EEG by networks trained
    without the segment's stimulus, for which the alignment stage is trained twice more. naive: by the alignment stage
    itself. stimulus: the stimulus's own, which is what the samples of a prior resemble."""
    fold_steps: int | None = None
    """out_of_fold: steps of these trainings; null: as many as the alignment stage was trained for."""
    alignment: str = "alignment"
    """The alignment stage of the same run, or its folder in another run, that predicts the embeddings."""
    text_dropout: float = 0.05
    """train: adapter, both: share of segments whose text condition alone is dropped; these shares are IP-Adapter's."""
    image_dropout: float = 0.05
    """Share of segments whose image embeddings alone are dropped."""
    text_and_image_dropout: float = 0.05
    """Share of segments whose text condition and image embeddings are both dropped."""
    activation_checkpointing: bool = False
    """Compute the U-Net's activations again in the backward pass: far less memory, a third more time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alignment_weight < 0:
            raise ValueError(f"alignment_weight must be at least 0, got {self.alignment_weight}")
        if self.min_snr_gamma is not None and self.min_snr_gamma <= 0:
            raise ValueError(f"min_snr_gamma must be positive, or null for none; got {self.min_snr_gamma}")
        if self.alignment_weight and self.trains_adapters:
            raise ValueError(f"alignment_weight is for train: unet, not for train: {self.train}; set it to 0")
        if self.adapters is not None and not (self.adapters and self.trains_adapters):
            raise ValueError(
                "adapters names the IP-Adapters that train: adapter or both trains; set train, or adapters to null"
            )
        if self.initialise_from is None and self.train != "adapter":
            raise ValueError(f"initialise_from is null, which is for train: adapter alone, not for {self.train}")
        if self.fold_steps is not None and self.fold_steps < 1:
            raise ValueError(f"fold_steps must be at least 1, or null; got {self.fold_steps}")
        shares = self.text_dropout + self.image_dropout + self.text_and_image_dropout
        if shares >= 1:
            raise ValueError(
                f"text_dropout, image_dropout and text_and_image_dropout must be less than 1 together, got {shares:g}"
            )

    @property
    def trains_adapters(self) -> bool:
        return self.train != "unet"

    @property
    def predicts_embeddings(self) -> bool:
        """Whether adapters are trained on embeddings that the alignment stage predicts."""
        return self.trains_adapters and self.embeddings != "stimulus"

    def chosen(self, adapters: Mapping[str, IPAdapterConfig]) -> tuple[str, ...]:
        """Names of those that are trained, of the model's. Raises UserError where there is none, or not that one."""
        if not adapters:
            raise UserError(
                f"diffusion.train is {self.train}, and the model has no IP-Adapter. Name one in model.ip_adapters: "
                "{NAME: {path: FILE, target: KIND}}, or path: new for one that this stage makes."
            )
        names = tuple(adapters) if self.adapters is None else self.adapters
        if unknown := [name for name in names if name not in adapters]:
            raise UserError(
                f"diffusion.adapters names {', '.join(unknown)}; the model has {', '.join(adapters)}. Name those, or "
                "add it to model.ip_adapters."
            )
        if foreign := [name for name in names if Path(name).name != name]:
            raise UserError(
                f"the IP-Adapter {foreign[0]} is written to a file of its name, which must have no /. Rename it in "
                "model.ip_adapters."
            )
        if untrained := [name for name in adapters if adapters[name].is_new and name not in names]:
            raise UserError(
                f"model.ip_adapters.{untrained[0]} is new, and diffusion.adapters does not name it, so nothing would "
                "train it. Name it too, or leave it out."
            )
        return names


class DiffusionStage(SampledStage):
    name = "diffusion"
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
            network = _with_adapters(config, context, unet, semantic)
            embeddings = _predicted_embeddings(config, context, network.targets.values())
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
        width = int(read_config(component_folder(folder, "unet"))["cross_attention_dim"])
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


def conditioned_on_eeg(
    config: DiffusionConfig, unet: LoadedUNet, semantic: SemanticModel, *, embedding_size: int | None = None
) -> EEGDiffusion:
    """The network around the U-Net, of which what the configuration says is trained. embedding_size: of the image
    embedding that the features are drawn towards.
    """
    semantic.requires_grad_(config.finetune_condition)
    choose_trained(unet.network, config.trained, lora_rank=config.lora_rank)
    return EEGDiffusion(semantic=semantic, unet=unet.network, embedding_size=embedding_size)


def _with_adapters(
    config: DiffusionConfig, context: StageContext, unet: LoadedUNet, semantic: SemanticModel | None
) -> AdapterDiffusion:
    """The network around the U-Net and its IP-Adapters, of which the chosen ones are trained."""
    adapters, shapes = adapters_of(model_path(context.model), context.ip_adapters), context.shapes
    trained = config.chosen(adapters)
    targets = {name: adapter.target for name, adapter in adapters.items()}
    load_adapters(unet.network, adapters, sizes={kind: shapes.of_latent(kind)[0] for kind in targets.values()})
    unet.network.requires_grad_(False)
    if semantic is not None:
        semantic.requires_grad_(config.finetune_condition and config.train == "both")
    if config.train == "both":
        choose_trained(unet.network, config.trained, lora_rank=config.lora_rank)
    return AdapterDiffusion(
        semantic=semantic,
        unet=unet.network,
        targets=targets,
        trained=trained,
        unet_is_trained=config.train == "both",
        text_shape=shapes.text_shape,
        pooled_size=shapes.pooled_size,
        image_size_px=None if unet.folder is None else image_size_px(unet.folder),
    )


def _predicted_embeddings(
    config: DiffusionConfig, context: StageContext, kinds: Iterable[str]
) -> dict[str, AlignmentEmbeddings]:
    """Kind → the alignment stage's embeddings; {} where the stimulus's own are used, and in a dry run, where numbers do
    not matter. Raises UserError where the alignment stage is not trained, or not on a kind.
    """
    run, name = context.run, DiffusionStage.name
    if not config.predicts_embeddings or run is None:
        return {}
    stage = Path(config.alignment) if "/" in config.alignment else run / config.alignment
    if not (stage / "export").is_dir():
        raise UserError(
            f"diffusion.embeddings is {config.embeddings}, and the alignment stage {stage} is not trained. Train it "
            "first, or set diffusion.embeddings=stimulus."
        )
    with torch.device("cpu"):  # real weights also where networks are built without any
        alignment = AlignmentModel.from_pretrained(stage / "export")
    if missing := [kind for kind in kinds if kind not in alignment.kinds]:
        raise UserError(
            f"an IP-Adapter takes {missing[0]} embeddings, and {stage} predicts {', '.join(alignment.kinds)}. Add "
            f"{missing[0]} to alignment.targets and train it again, or change model.ip_adapters.NAME.target."
        )
    if config.embeddings == "naive":
        once = config.augment == AugmentConfig()
        return {kind: AlignmentEmbeddings(alignment, kind, stage=name, once=once) for kind in kinds}
    exports = CrossFit.exports(run, name, config.alignment, NUM_FOLDS)
    return {
        kind: AlignmentEmbeddings(alignment, kind, stage=name, exports=exports, folder=run / name / "embeddings" / kind)
        for kind in kinds
    }
