"""The prior stage: the alignment stage's embedding of EEG → an image embedding, by diffusion (ATM, Li et al. 2024).

By default it is trained on out-of-fold embeddings (trainer/batches/alignment_embeddings.py).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroimagen.data_shards.common.arrays import Integers
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.loading.reader import Batch
from neuroimagen.trainer.batches.alignment_embeddings import NUM_FOLDS, AlignmentEmbeddings
from neuroimagen.trainer.batches.augmentation import AugmentConfig, augment_eeg
from neuroimagen.trainer.batches.stage_data import BatchNeeds, StageData
from neuroimagen.trainer.networks.alignment import AlignmentModel, cosine_similarities
from neuroimagen.trainer.networks.pretrained import PretrainedModule
from neuroimagen.trainer.networks.prior import NUM_TIMESTEPS, Prediction, PriorModel, PriorNetwork
from neuroimagen.trainer.networks.randomness import StepRandom
from neuroimagen.trainer.stages.base import CrossFit, Loss, Phase, SampledStage, Selection, StageContext, network_of
from neuroimagen.trainer.stages.config import SampledStageConfig
from neuroimagen.trainer.stages.validation.retrieval_figures import (
    ValidationGallery,
    no_ranks,
    ranks_of,
    require_gallery,
    retrieval_values,
)
from neuroimagen.trainer.stages.validation.segment_figures import SegmentFigures

SAMPLE_SIZE_PX = 128
"""Side of the gallery's images that samples show."""
_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class PriorConfig(SampledStageConfig):
    """The recipe's `prior` section. The defaults are ATM's constants, but for `prediction` and `guidance`: in as many
    steps ATM's (epsilon, 5) sample far less like the stimulus's embedding (docs/reference/training.md)."""

    warmup_steps: int = 500
    weight_decay: float = 0.0
    batch_size: int = 1024
    """Segments of a step, over all ranks."""
    target: str = "image"
    """Kind of cached image embedding that samples are."""
    condition: str | None = None
    """Kind of the alignment stage's embedding that conditions; null: that of `target`."""
    embeddings: Literal["out_of_fold", "naive"] = "out_of_fold"
    """Which embeddings of training segments condition. out_of_fold: by networks trained without the segment's stimulus,
    for which the alignment stage is trained twice more. naive: by the alignment stage itself."""
    fold_steps: int | None = None
    """out_of_fold: steps of these trainings; null: as many as the alignment stage was trained for."""
    network: PriorNetwork = "mlp"
    """mlp: ATM's, shaped like a U-Net. transformer: diffusers' PriorTransformer."""
    sizes: tuple[int, ...] = (1024, 512, 256, 128, 64)
    """mlp: sizes of its levels."""
    time_size: int = 512
    """mlp: length of the sinusoidal embedding of time."""
    num_layers: int = 6
    """transformer: number of blocks."""
    num_heads: int = 8
    """transformer: heads of attention, each of head_width numbers."""
    head_width: int = 64
    dropout: float = 0.1
    """Share of a layer's outputs that are zeroed in training."""
    prediction: Prediction = "sample"
    """What the network predicts: the embedding without noise, or (epsilon) the noise."""
    condition_dropout: float = 0.1
    """Share of segments whose condition is left out, for guidance."""
    sampling_steps: int = 50
    """Steps of sampling, also of the exported prior unless it is told otherwise."""
    guidance: float = 2.0
    """u + g · (c − u) of the predictions with and without the condition, in sampling; 1: the condition alone."""
    initialise_from: str = "alignment"
    """The alignment stage of the same run, or its folder in another run, whose embeddings condition."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.sizes) < 2 or min(self.sizes) < 1:
            raise ValueError(f"prior.sizes must be two or more positive numbers, got {list(self.sizes)}")
        if self.fold_steps is not None and self.fold_steps < 1:
            raise ValueError(f"prior.fold_steps must be at least 1, or null; got {self.fold_steps}")
        if self.sampling_steps > NUM_TIMESTEPS:
            raise ValueError(f"prior.sampling_steps must be at most {NUM_TIMESTEPS}, got {self.sampling_steps}")
        if not 0 <= self.guidance < math.inf:
            raise ValueError(f"prior.guidance must not be negative, got {self.guidance}")
        if self.embeddings == "out_of_fold" and self.augment != AugmentConfig():
            raise ValueError(
                "prior.augment changes EEG, and out-of-fold embeddings are computed once, before training. Leave it "
                "out, or set prior.embeddings to naive"
            )

    @property
    def condition_kind(self) -> str:
        return self.condition or self.target

    @property
    def network_settings(self) -> dict[str, Any]:
        """What the chosen network is made with, beside the lengths of embeddings."""
        if self.network == "mlp":
            return {"sizes": self.sizes, "time_size": self.time_size, "dropout": self.dropout}
        names = ("num_layers", "num_heads", "head_width", "dropout")
        return {name: getattr(self, name) for name in names}


class PriorStage(SampledStage):
    name = "prior"
    Config = PriorConfig
    Start = AlignmentModel
    after = ("alignment",)
    selection = Selection("mrr", "max")

    def __init__(
        self, config: PriorConfig, *, alignment: AlignmentModel, embedding_size: int, run: Path | None
    ) -> None:
        """run: where out-of-fold embeddings are; None: conditions are `alignment`'s, as in a dry run."""
        self.config: PriorConfig = config
        exports: list[Path] = []
        folder: Path | None = None
        if config.embeddings == "out_of_fold" and run is not None:
            exports = CrossFit.exports(run, self.name, config.initialise_from, NUM_FOLDS)
            folder = run / self.name / "embeddings"
        self._embeddings = AlignmentEmbeddings(
            alignment,
            config.condition_kind,
            stage=self.name,
            exports=exports,
            folder=folder,
            once=config.augment == AugmentConfig(),
        )
        self.networks = {
            "model": PriorModel(
                kind=config.target,
                condition_kind=config.condition_kind,
                embedding_size=embedding_size,
                condition_size=alignment.embedding_sizes[config.condition_kind],
                network=config.network,
                network_settings=config.network_settings,
                prediction=config.prediction,
                sampling_steps=config.sampling_steps,
                guidance=config.guidance,
            )
        }
        self.phases = (Phase("model", self._loss),)
        self._data: StageData | None = None

    @classmethod
    def build(cls, config: PriorConfig, context: StageContext) -> Self:
        assert isinstance(context.start, AlignmentModel)
        shape = context.shapes.of_latent(config.target)
        if len(shape) != 1:
            raise UserError(
                f"prior.target: a {config.target} latent has the shape {list(shape)}; a target is one vector. Choose "
                "an image tower; `neuroimagen cache --help` lists the kinds."
            )
        if config.condition_kind not in context.start.kinds:
            raise UserError(
                f"the alignment stage was trained on {', '.join(context.start.kinds)}, not on {config.condition_kind}. "
                f"Set prior.condition to one of these, or add {config.condition_kind} to alignment.targets and train "
                "it again."
            )
        return cls(config, alignment=context.start, embedding_size=shape[0], run=context.run)

    @classmethod
    def batch_needs(cls, config: PriorConfig) -> BatchNeeds:
        return BatchNeeds(latents=(config.target,))

    @classmethod
    def starts_from(cls, config: PriorConfig) -> str | None:
        return config.initialise_from

    @classmethod
    def cross_fit(cls, config: PriorConfig) -> CrossFit | None:
        if config.embeddings == "naive":
            return None
        return CrossFit(source=config.initialise_from, num_folds=NUM_FOLDS, steps=config.fold_steps)

    @property
    def _model(self) -> PriorModel:
        return network_of(self.networks, PriorModel)

    def check(self, data: StageData) -> None:
        require_gallery(data)
        self._data = data

    def prepare(self, data: StageData) -> None:
        stimuli = data.dataset.index.stimulus[data.rows("train")]
        self._model.fit_targets(data.latents[self.config.target], stimuli)
        self._model.fit_conditions(self._embeddings.of_training(data))

    def _loss(self, networks: Mapping[str, nn.Module], batch: Batch, random: StepRandom) -> Loss:
        config, model = self.config, self._model
        eeg = augment_eeg(batch.eeg, config.augment, random)
        condition = self._embeddings.of_batch(batch, eeg, self._data)
        target = model.standardised(batch.latents[config.target])
        noise = random.normal("noise", model.embedding_size)
        timesteps = (random.uniform("timestep") * NUM_TIMESTEPS).long()
        dropped = random.uniform("condition") < config.condition_dropout
        predicted = networks["model"](model.noised(target, noise, timesteps), timesteps, condition, dropped)
        return F.mse_loss(predicted.float(), noise if config.prediction == "epsilon" else target), {}

    @torch.no_grad()
    def validate(self, networks: Mapping[str, nn.Module], data: StageData) -> SegmentFigures:
        """Retrieval of single segments' stimuli among all stimuli of the validation split by sampled embeddings, whose
        noise depends on the segment alone; mrr selects the weights (retrieval_figures.py).

        cosine: with the stimulus's own embedding. Embeddings are compared minus the mean of the training stimuli's.
        condition_mrr, condition_cosine: the same of the alignment stage's embedding, where it is of the same kind: what
        the prior is to improve on.
        """
        shown = ValidationGallery.of(data, self.config.target)
        targets = shown.latents - self._model.target_mean
        own = torch.from_numpy(data.share(shown.place)).to(data.device)
        same_kind = self.config.condition_kind == self.config.target
        ranks: list[list[Tensor]] = [[no_ranks(data)], [no_ranks(data)]]
        cosines: list[list[Tensor]] = [[torch.empty(0, device=data.device)], [torch.empty(0, device=data.device)]]
        for condition, sampled in self._samples(networks, data, shown.rows):
            true, own = own[: len(sampled)], own[len(sampled) :]
            for number, found in enumerate([sampled, condition] if same_kind else [sampled]):
                similarity = cosine_similarities(found - self._model.target_mean, targets)
                ranks[number].append(ranks_of(similarity, true))
                cosines[number].append(similarity.gather(1, true[:, None])[:, 0])
        gathered = [data.gather(torch.cat(parts)) for parts in ranks]
        values = dict(retrieval_values(gathered[0], len(shown.gallery)))
        values["cosine"] = data.gather(torch.cat(cosines[0])).double().numpy()
        if same_kind:
            values["condition_mrr"] = retrieval_values(gathered[1], len(shown.gallery))["mrr"]
            values["condition_cosine"] = data.gather(torch.cat(cosines[1])).double().numpy()
        return SegmentFigures(rows=shown.rows, stimuli=shown.stimuli, values=values)

    def _samples(
        self, networks: Mapping[str, nn.Module], data: StageData, rows: Integers
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Conditions [b, P] and sampled embeddings [b, E] of this rank's share of `rows`, in order."""
        for batch in data.batches(data.share(rows), _BATCH, eeg_only=True):
            condition = self._embeddings.of(batch.eeg, batch.subject)
            yield condition, self._sample(networks, condition, batch.rows.numpy())

    def _sample(self, networks: Mapping[str, nn.Module], condition: Tensor, rows: Integers) -> Tensor:
        model = networks["model"]
        assert isinstance(model, PriorModel)
        generators = [torch.Generator().manual_seed(row) for row in rows.tolist()]
        noise = torch.stack([torch.randn(model.embedding_size, generator=generator) for generator in generators])
        return model.sample(condition, noise.to(condition.device))

    def draw(self, networks: Mapping[str, nn.Module], eeg: Tensor, subject: Tensor, rows: np.ndarray) -> np.ndarray:
        """The images of the validation split whose embeddings are most similar to the sampled ones."""
        assert self._data is not None
        shown = ValidationGallery.of(self._data, self.config.target)
        sampled = self._sample(networks, self._embeddings.of(eeg, subject), rows)
        mean = self._model.target_mean
        nearest = cosine_similarities(sampled - mean, shown.latents - mean).argmax(1)
        images: np.ndarray = self._data.dataset.stimuli.images(shown.gallery[nearest.cpu().numpy()], SAMPLE_SIZE_PX)
        return images

    def exported(self, networks: Mapping[str, nn.Module]) -> PretrainedModule:
        return network_of(networks, PriorModel)
