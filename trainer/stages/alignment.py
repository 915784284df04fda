"""The alignment stage: EEG → the embedding that a frozen network makes of the stimulus, by InfoNCE.

Symmetric InfoNCE over the global batch (arXiv 1807.03748; for EEG and images: NICE, arXiv 2308.13234, eq. 1). Rows of
one stimulus share their positive. The weights are chosen by retrieval among the validation split's own stimuli.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.loading.plan import BalancedPlan, Plan
from neuroimagen.data_shards.loading.reader import Batch
from neuroimagen.trainer.batches.augmentation import augment_eeg
from neuroimagen.trainer.batches.stage_data import BatchNeeds, StageData
from neuroimagen.trainer.networks.alignment import SCALE_BOUNDS, AlignmentModel, HeadKind, cosine_similarities
from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder, Finetuned
from neuroimagen.trainer.networks.pretrained import PretrainedModule
from neuroimagen.trainer.networks.randomness import StepRandom
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


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig(SampledStageConfig):
    """The recipe's `alignment` section."""

    targets: Mapping[str, float] = field(default_factory=lambda: {"image": 1.0})
    """Kinds of cached latent (image towers, pooled captions) → weight of their InfoNCE in the loss. The first is the
    one that weights are selected by."""
    mse_weight: float = 0.0
    """Weight of the mean squared difference between embedding and target, added for every kind."""
    cosine_weight: float = 0.0
    """Weight of 1 − cos(embedding, target), added for every kind."""
    unit_norm: Literal["both", "targets", "rows", "none"] = "both"
    """Which side of a logit has length 1: EEG embeddings are the rows."""
    centre_targets: bool = True
    """Subtract the mean of the training stimuli's targets from every target."""
    logit_scale: float = 1 / 0.07
    """The scale that logits begin with; CLIP's and NICE's is 14.3."""
    learn_logit_scale: bool = True
    """Train the scale with the weights, within [1, 100]."""
    directions: Literal["both", "rows"] = "both"
    """both: EEG among images and images among EEG. rows: EEG among images alone."""
    soft_targets: float = 0.0
    """Share of the target distribution that follows the similarity between the batch's targets."""
    soft_target_scale: float = 10.0
    """soft_targets: factor of the cosines between targets, before the softmax."""
    order: Literal["shuffled", "distinct"] = "shuffled"
    """shuffled: batches of segments. distinct: every stimulus at most once in a batch."""
    batch_size: int = 256
    """Segments of a step, over all ranks; with repetitions: stimuli of a step."""
    repetitions: int = 1
    """Segments of the same stimulus in a batch, of which the mean of a random number is taken, drawn anew for every
    stimulus and step (arXiv 2409.20086); 1: single segments."""
    head: HeadKind = "residual"
    """What makes an embedding of the encoder's features: none, one linear layer, or one with a residual block."""
    head_dropout: float = 0.3
    initialise_from: str | None = None
    """Stage of the same run (`masked`, `contrastive`), or folder of another run's, whose exported encoder f_θ starts
    from; null: from scratch."""
    keep_initial: bool = False
    """Leave the encoder of `initialise_from` as it is, and train a second one from scratch beside it; the head reads
    the features of both. An encoder that was trained to tell classes keeps what it knows of them."""
    finetune_encoder: Finetuned = True
    """Train f_θ with the head; subject_layers: of f_θ only the subjects' maps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.targets:
            raise ValueError("targets must name at least one kind of cached latent, for instance image: 1.0")
        weights = {**self.targets, "mse_weight": self.mse_weight, "cosine_weight": self.cosine_weight}
        for name, weight in weights.items():
            if not 0 <= weight < math.inf:
                raise ValueError(f"targets, mse_weight and cosine_weight must not be negative; {name} is {weight}")
        if not any(weights.values()):
            raise ValueError("the weights of targets, mse_weight and cosine_weight are all 0: nothing is trained")
        low, high = SCALE_BOUNDS
        if not low <= self.logit_scale <= high:
            raise ValueError(f"logit_scale must lie in [{low:g}, {high:g}], got {self.logit_scale}")
        if not 0 <= self.soft_targets <= 1 or not 0 < self.soft_target_scale < math.inf:
            raise ValueError("soft_targets must lie in [0, 1], and soft_target_scale must be positive")
        if self.batch_size < 2 or self.repetitions < 1:
            raise ValueError("batch_size must be at least 2 and repetitions at least 1")
        if self.repetitions > 1 and self.order == "distinct":
            raise ValueError(
                "order: distinct is for repetitions: 1; with more, a subject's stimulus is once in a batch"
            )
        if not 0 <= self.head_dropout < 1:
            raise ValueError(f"head_dropout must lie in [0, 1), got {self.head_dropout}")
        if self.keep_initial and (self.initialise_from is None or self.finetune_encoder is not True):
            raise ValueError(
                "keep_initial keeps the encoder of initialise_from beside a new one that is trained: it needs "
                "initialise_from, and finetune_encoder: true"
            )
        if self.gradient_accumulation > 1:
            raise ValueError("alignment.gradient_accumulation must be 1: a segment is compared with the whole batch")


class AlignmentStage(SampledStage):
    name = "alignment"
    Config = AlignmentConfig
    after = ("masked", "contrastive")
    selection = Selection("mrr", "max")

    def __init__(
        self,
        config: AlignmentConfig,
        *,
        encoder: dict[str, Any],
        initial_encoder: EEGEncoder | None,
        embedding_sizes: Mapping[str, int],
    ) -> None:
        # Imported here: it brings PyTorch's compiler, which no process but that of this stage should wait for.
        from neuroimagen.kernels.infonce import InfoNCELoss

        self.config: AlignmentConfig = config
        model = AlignmentModel(
            encoder=encoder,
            embedding_sizes=embedding_sizes,
            head=config.head,
            head_dropout=config.head_dropout,
            centre_targets=config.centre_targets,
            logit_scale=config.logit_scale,
            learn_logit_scale=config.learn_logit_scale,
            kept_encoder=initial_encoder.config if config.keep_initial and initial_encoder is not None else None,
        )
        if model.kept_encoder is not None and initial_encoder is not None:
            model.kept_encoder.load_state_dict(initial_encoder.state_dict())
            initial_encoder = None
        self._fit_normalisation = begin_encoder(model.encoder, initial_encoder, config.finetune_encoder)
        self.networks = {"model": model}
        self.phases = (Phase("model", self._loss),)
        self._infonce = InfoNCELoss(
            directions=config.directions,
            soft_targets=config.soft_targets,
            soft_target_scale=config.soft_target_scale,
            gradients="mean",  # DeepSpeed averages the ranks' gradients
        )
        self._labels: dict[str, Tensor] = {}
        self._data: StageData | None = None

    @classmethod
    def build(cls, config: AlignmentConfig, context: StageContext) -> Self:
        sizes = {}
        for kind in config.targets:
            shape = context.shapes.of_latent(kind)
            if len(shape) != 1:
                raise UserError(
                    f"alignment.targets: a {kind} latent has the shape {list(shape)}; a target is one vector. "
                    "Choose an image tower or pooled captions; `neuroimagen cache --help` lists the kinds."
                )
            sizes[kind] = shape[0]
        try:
            return cls(config, encoder=context.encoder, initial_encoder=context.start_encoder(), embedding_sizes=sizes)
        except ValueError as error:
            raise UserError(f"alignment.{error}.") from None

    @classmethod
    def batch_needs(cls, config: AlignmentConfig) -> BatchNeeds:
        return BatchNeeds(latents=tuple(config.targets))

    @classmethod
    def starts_from(cls, config: AlignmentConfig) -> str | None:
        return config.initialise_from

    @property
    def global_batch_size(self) -> int:
        return self.config.batch_size * self.config.repetitions

    @property
    def _model(self) -> AlignmentModel:
        return network_of(self.networks, AlignmentModel)

    def plan(self, data: StageData, seed: int) -> Plan:
        rows, config = data.rows("train"), self.config
        index = data.dataset.index
        if config.repetitions > 1:
            if config.batch_size % data.world_size:
                raise UserError(
                    f"alignment.batch_size {config.batch_size} must be a multiple of the {data.world_size} ranks, so "
                    "that the repetitions of a stimulus are on one of them."
                )
            # The mean is over segments of one subject: those of another have other topographies.
            pairs = np.stack([index.subject[rows], index.stimulus[rows]])
            shown = np.unique(pairs, axis=1, return_inverse=True)[1].reshape(-1)
            sizes = (config.batch_size, config.repetitions)
            return BalancedPlan(rows, shown, *sizes, seed, need_pairs=False, groups="stimuli")
        if config.order == "distinct":
            stimuli = index.stimulus[rows]
            return BalancedPlan(rows, stimuli, config.batch_size, 1, seed, need_pairs=False, groups="stimuli")
        return data.shuffled(rows, seed, config.batch_size)

    def plan_warning(self, plan: Plan, data: StageData) -> str | None:
        short = plan.short_classes if isinstance(plan, BalancedPlan) else {}
        if not short:
            return None
        assert isinstance(plan, BalancedPlan)
        fewest = min(short.values())
        return (
            f"{len(short)} of {plan.num_of_classes} stimuli, each to one subject, have fewer than the "
            f"{self.config.repetitions} segments that a batch takes of each (the fewest: {fewest}), so some of theirs "
            f"are taken twice. With alignment.repetitions={fewest} none is."
        )

    def check(self, data: StageData) -> None:
        require_gallery(data)
        # Captions may be shared by stimuli, which are each other's positives then.
        every = np.arange(len(data.dataset.stimuli))
        self._labels = {
            kind: torch.from_numpy(data.latents[kind].distinct(every)[1]).to(data.device) for kind in self._model.kinds
        }
        self._data = data

    def prepare(self, data: StageData) -> None:
        if self._fit_normalisation:
            fit_encoder_normalisation(self._model.encoder, data)
        self._model.fit_targets(data.latents, data.dataset.index.stimulus[data.rows("train")])

    def _loss(self, networks: Mapping[str, nn.Module], batch: Batch, random: StepRandom) -> Loss:
        config = self.config
        eeg, subject, stimulus = augment_eeg(batch.eeg, config.augment, random), batch.subject, batch.stimulus
        if config.repetitions > 1:
            eeg = mean_of_some(eeg, config.repetitions, random)
            subject, stimulus = subject[:: config.repetitions], stimulus[:: config.repetitions]
        predicted, scale = networks["model"](eeg, subject)
        scale = scale.float()
        total = scale.new_zeros(())
        figures = {"logit_scale": scale.detach()}
        for kind, weight in config.targets.items():
            embedding = predicted[kind].float()
            target = self._model.centred(kind, batch.latents[kind][:: config.repetitions].float())
            if weight:
                loss = self._infonce(
                    F.normalize(embedding, dim=1) if config.unit_norm in ("both", "rows") else embedding,
                    F.normalize(target, dim=1) if config.unit_norm in ("both", "targets") else target,
                    self._labels[kind][stimulus] if self._labels else stimulus,  # a dry run has no stores
                    logit_scale=scale,
                )
                total = total + weight * loss
                figures[f"{kind}_infonce"] = loss.detach()
            if config.mse_weight:
                total = total + config.mse_weight * F.mse_loss(embedding, target)
            if config.cosine_weight:
                total = total + config.cosine_weight * (1 - F.cosine_similarity(embedding, target, dim=1)).mean()
        return total, figures

    @torch.no_grad()
    def validate(self, networks: Mapping[str, nn.Module], data: StageData) -> SegmentFigures:
        """Retrieval of a single segment's stimulus among all stimuli of the validation split, by the cosine with their
        targets of the first kind.

        Figures as `retrieval_values` defines them; mrr selects the weights.
        """
        kind = self._model.kinds[0]
        shown = ValidationGallery.of(data, kind)
        targets = self._model.centred(kind, shown.latents)
        own = torch.from_numpy(data.share(shown.place)).to(data.device)
        ranks = [no_ranks(data)]
        for batch in data.batches(data.share(shown.rows), 64, eeg_only=True):
            embeddings, _ = networks["model"](batch.eeg, batch.subject)
            similarity = cosine_similarities(embeddings[kind].float(), targets)
            true, own = own[: len(batch)], own[len(batch) :]
            ranks.append(ranks_of(similarity, true))
        values = retrieval_values(data.gather(torch.cat(ranks)), len(shown.gallery))
        return SegmentFigures(rows=shown.rows, stimuli=shown.stimuli, values=values)

    def draw(self, networks: Mapping[str, nn.Module], eeg: Tensor, subject: Tensor, rows: np.ndarray) -> np.ndarray:
        """The images of the validation split whose targets are most similar to the embeddings."""
        assert self._data is not None
        data, kind = self._data, self._model.kinds[0]
        shown = ValidationGallery.of(data, kind)
        targets = self._model.centred(kind, shown.latents)
        embeddings, _ = networks["model"](eeg, subject)
        nearest = cosine_similarities(embeddings[kind].float(), targets).argmax(1)
        images: np.ndarray = data.dataset.stimuli.images(shown.gallery[nearest.cpu().numpy()], SAMPLE_SIZE_PX)
        return images

    def exported(self, networks: Mapping[str, nn.Module]) -> PretrainedModule:
        return network_of(networks, AlignmentModel)


def mean_of_some(eeg: Tensor, repetitions: int, random: StepRandom) -> Tensor:
    """EEG [B · K, C, T], K segments of every stimulus one after the other → the mean of 1 to K of them, [B, C, T].

    The number is uniform, and drawn with the segments' own random numbers, so that it does not depend on ranks.
    """
    number = (random.uniform("repetitions")[::repetitions] * repetitions).long() + 1  # [B]
    place = torch.arange(repetitions, device=eeg.device)
    weight = (place < number[:, None]).to(eeg.dtype) / number[:, None]  # [B, K]
    return torch.einsum("bk,bkct->bct", weight, eeg.unflatten(0, (-1, repetitions)))
