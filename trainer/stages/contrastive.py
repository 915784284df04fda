"""The contrastive stage: f_θ, an EEG encoder whose features of one class lie together.

Semi-hard triplet loss max(0, β + ‖f(x_a) − f(x_p)‖² − ‖f(x_a) − f(x_n)‖²) over the global batch (Lan et al. 2023, eq.
1; negatives as in FaceNet, Schroff et al. 2015).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroimagen.data_shards.loading.plan import BalancedPlan, Plan
from neuroimagen.data_shards.loading.reader import Batch
from neuroimagen.kernels.batch_hard import BatchHardTripletLoss
from neuroimagen.kernels.semihard import SemiHardTripletLoss
from neuroimagen.trainer.batches.augmentation import augment_eeg
from neuroimagen.trainer.batches.stage_data import StageData
from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder
from neuroimagen.trainer.networks.pretrained import PretrainedModule
from neuroimagen.trainer.networks.randomness import StepRandom
from neuroimagen.trainer.stages.base import (
    Loss,
    Phase,
    Selection,
    Stage,
    StageContext,
    fit_encoder_normalisation,
    network_of,
)
from neuroimagen.trainer.stages.config import StageConfig
from neuroimagen.trainer.stages.validation import zero_shot
from neuroimagen.trainer.stages.validation.segment_figures import SegmentFigures

CENTROID_SEGMENTS = 4096
"""Training segments, at most, that validation compares with: for class centroids and nearest neighbours."""
NEIGHBOURS = 15
"""Training segments that vote on the class of a validation segment."""


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig(StageConfig):
    """The recipe's `contrastive` section."""

    margin: float = 1.0
    """β, in units of the distance: 1.0 on squared L2 (EEG2Image), 0.2 on unit-norm embeddings (FaceNet)."""
    distance: Literal["sqeuclidean", "euclidean", "cosine"] = "sqeuclidean"
    unit_norm: bool = True
    """Scale embeddings to length 1 before the loss (the exported encoder gives them unscaled)."""
    num_classes: int = 32
    """P: classes a global batch."""
    num_samples: int = 8
    """K: segments of each class in a global batch."""
    mining: Literal["semi-hard", "batch-hard"] = "semi-hard"
    """semi-hard: for every pair the nearest negative that is farther than the positive. batch-hard: for every anchor
    the farthest positive and the nearest negative (Hermans et al. 2017).
    """
    positives: int | Literal["all"] = "all"
    """semi-hard: positives of each anchor that are mined for: all of its class in the batch, or this many drawn at
    random.
    """
    reduction: Literal["pairs", "active"] = "pairs"
    """The loss is divided by all pairs (batch-hard: anchors), or by those that still violate the margin."""
    backend: Literal["auto", "torch", "triton"] = "auto"
    """semi-hard: which implementation mines."""
    initialise_from: str | None = None
    """Stage of the same run (`masked`), or folder of another run's, whose exported encoder f_θ starts from; null: from
    scratch.
    """
    refit_normalisation: bool = False
    """Fit the channels' mean and covariance again where f_θ starts from another encoder: for a new subject or cap."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.margin < 0:
            raise ValueError(f"margin must not be negative, got {self.margin}")
        if self.num_classes < 2 or self.num_samples < 2:
            raise ValueError("num_classes and num_samples must be at least 2: a triplet needs two classes and a pair")
        if self.gradient_accumulation > 1:
            raise ValueError("contrastive.gradient_accumulation must be 1: triplets are mined over the whole batch")
        if self.positives != "all" and self.positives < 1:
            raise ValueError(f"positives must be all, or at least 1; got {self.positives}")
        if self.mining == "batch-hard" and (self.positives != "all" or self.backend == "triton"):
            raise ValueError("mining: batch-hard has no positives and no backend to choose; leave them as they are")


class ContrastiveStage(Stage):
    name = "contrastive"
    Config = ContrastiveConfig
    after = ("masked",)
    selection = Selection("accuracy", "max")

    def __init__(self, config: ContrastiveConfig, *, encoder: EEGEncoder, fit_normalisation: bool = True) -> None:
        """`fit_normalisation`: for a freshly initialised encoder; a trained one keeps its own."""
        self.config: ContrastiveConfig = config
        self._fit_normalisation = fit_normalisation
        self.networks = {"encoder": encoder}
        self.phases = (Phase("encoder", self._loss),)
        # DeepSpeed averages the ranks' gradients.
        common: dict[str, Any] = {
            **{"margin": config.margin, "distance": config.distance, "reduction": config.reduction},
            "gradients": "mean",
        }
        self._triplet_loss: nn.Module
        if config.mining == "batch-hard":
            self._triplet_loss = BatchHardTripletLoss(**common)
        else:
            self._triplet_loss = SemiHardTripletLoss(positives=config.positives, backend=config.backend, **common)

    @classmethod
    def build(cls, config: ContrastiveConfig, context: StageContext) -> Self:
        start = context.start_encoder()
        network = EEGEncoder(**context.encoder) if start is None else start
        return cls(config, encoder=network.train(), fit_normalisation=start is None)

    @classmethod
    def starts_from(cls, config: ContrastiveConfig) -> str | None:
        return config.initialise_from

    @property
    def global_batch_size(self) -> int:
        return self.config.num_classes * self.config.num_samples

    def plan(self, data: StageData, seed: int) -> Plan:
        rows = data.rows("train")
        labels = data.dataset.index.label[rows]
        return BalancedPlan(rows, labels, self.config.num_classes, self.config.num_samples, seed)

    def plan_warning(self, plan: Plan, data: StageData) -> str | None:
        assert isinstance(plan, BalancedPlan)
        return repeats_text(plan, [item.name for item in data.dataset.metadata.classes])

    def check(self, data: StageData) -> None:
        _known_and_queries(data)

    def prepare(self, data: StageData) -> None:
        encoder = self.networks["encoder"]
        assert isinstance(encoder, EEGEncoder)
        if self._fit_normalisation or self.config.refit_normalisation:
            fit_encoder_normalisation(encoder, data)

    def _embed(self, encoder: nn.Module, eeg: Tensor, subject: Tensor) -> Tensor:
        features = encoder(eeg, subject)
        return F.normalize(features, dim=1) if self.config.unit_norm else features

    def _loss(self, networks: Mapping[str, nn.Module], batch: Batch, random: StepRandom) -> Loss:
        eeg = augment_eeg(batch.eeg, self.config.augment, random)
        return self._triplet_loss(self._embed(networks["encoder"], eeg, batch.subject), batch.label), {}

    @torch.no_grad()
    def validate(self, networks: Mapping[str, nn.Module], data: StageData) -> SegmentFigures:
        """Shares of validation segments whose class is found among known segments: the training split; where no class
        is in both splits (zero-shot), every other stimulus of the validation split's own classes.

        accuracy: by the nearest class centroid. knn_accuracy: by a vote of the nearest segments. retrieval_top1: the
        nearest segment is of the same class.
        """
        encoder = networks["encoder"]
        assert isinstance(encoder, EEGEncoder)
        index = data.dataset.index
        known_rows, val_rows = _known_and_queries(data)
        known_rows = known_rows[:: -(-len(known_rows) // CENTROID_SEGMENTS)]
        parts = []
        for rows in (known_rows, val_rows):
            share = [
                self._embed(encoder, batch.eeg, batch.subject)
                for batch in data.batches(data.share(rows), 64, eeg_only=True)
            ]
            empty = torch.empty(0, encoder.feature_size, device=data.device)
            parts.append(data.gather(torch.cat([empty, *share])).double())
        found = (parts[0], index.label[known_rows], parts[1], index.label[val_rows])
        hits = {
            "accuracy": centroid_hits(*found),
            "knn_accuracy": neighbour_hits(*found, num_neighbours=NEIGHBOURS),
            "retrieval_top1": neighbour_hits(*found, num_neighbours=1),
        }
        values = {name: hit.astype(np.float64) for name, hit in hits.items()}
        return SegmentFigures(rows=val_rows, stimuli=index.stimulus[val_rows], values=values)

    def exported(self, networks: Mapping[str, nn.Module]) -> PretrainedModule:
        return network_of(networks, EEGEncoder, "encoder")


def _known_and_queries(data: StageData) -> tuple[np.ndarray, np.ndarray]:
    """The rows that validation compares with, and those that it asks about."""
    index, known, queries = data.dataset.index, data.rows("train"), data.rows("val")
    if zero_shot.is_zero_shot(index.label[known], index.label[queries]):
        return zero_shot.known_and_queries(queries, index.label[queries], index.stimulus[queries])
    return known, queries


def centroid_hits(embeddings: Tensor, labels: np.ndarray, queries: Tensor, query_labels: np.ndarray) -> np.ndarray:
    """Whether each of `queries` [N, F] lies nearest (L2) to the mean of its class's `embeddings` [M, F]; bool [N]."""
    classes, positions = np.unique(labels, return_inverse=True)
    member = F.one_hot(torch.from_numpy(positions), len(classes)).to(embeddings.dtype)  # [M, classes]
    centroids = (member.T @ embeddings) / member.sum(0)[:, None]
    distance, nearest = _distances(queries, centroids).min(dim=1)
    right: np.ndarray = (classes[nearest.numpy()] == query_labels) & distance.isfinite().numpy()
    return right


def _distances(queries: Tensor, others: Tensor) -> Tensor:
    """L2 distances [N, M], infinite where they are not a number: NaN counts as the smallest number in PyTorch."""
    return torch.cdist(queries, others).nan_to_num(nan=torch.inf, posinf=torch.inf)


def neighbour_hits(
    embeddings: Tensor, labels: np.ndarray, queries: Tensor, query_labels: np.ndarray, *, num_neighbours: int
) -> np.ndarray:
    """Whether the class of each of `queries` [N, F] has most of the nearest (L2) `embeddings` [M, F]; bool [N].

    Of classes with equally many votes, the one whose nearest voter is nearest wins.
    """
    num_neighbours = min(num_neighbours, len(embeddings))
    classes, positions = np.unique(labels, return_inverse=True)
    distance, nearest = _distances(queries, embeddings).topk(num_neighbours, dim=1, largest=False)  # nearest first
    voters = F.one_hot(torch.from_numpy(positions)[nearest], len(classes)).double()  # [N, neighbours, classes]
    # Together the voters' ranks weigh less than one vote, and a nearer voter more than all that follow it.
    order = 2.0 ** -torch.arange(1, num_neighbours + 1, dtype=torch.float64)
    votes = voters.sum(dim=1) + 0.5 * (voters * order[:, None]).sum(dim=1)
    right: np.ndarray = (classes[votes.argmax(dim=1).numpy()] == query_labels) & distance[:, 0].isfinite().numpy()
    return right


NUM_NAMED = 5
"""The largest number of classes that a warning names."""


def repeats_text(plan: BalancedPlan, names: Sequence[str]) -> str | None:
    """The warning that names the classes with repeated segments in a batch; None where there are none.

    names: The class names, by label.
    """
    short = plan.short_classes
    if not short:
        return None
    named = ", ".join(f"{names[label]} ({num})" for label, num in list(short.items())[:NUM_NAMED])
    more = f" and {len(short) - NUM_NAMED} more" if len(short) > NUM_NAMED else ""
    return (
        f"{len(short)} of {plan.num_of_classes} classes have fewer than the {plan.num_samples} segments that a batch "
        f"takes of each, so batches repeat some, and repeated segments are positives of each other at distance 0: "
        f"{named}{more}. With num_samples {min(short.values())} none is repeated."
    )
