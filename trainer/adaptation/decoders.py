"""What is adapted of a run: a stage's network, its loss on labelled segments, and the figures of test segments.

Legend: B segments of a batch, n test segments, C channels, T samples, F features, K classes.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroimagen.data_shards.common.arrays import Floats, Integers
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.latent_store import LatentStore
from neuroimagen.data_shards.loading.reader import Batch
from neuroimagen.trainer.batches.augmentation import AugmentConfig, augment_eeg
from neuroimagen.trainer.evaluation.metrics.embedding_retrieval import embedding_chance, embedding_values
from neuroimagen.trainer.evaluation.metrics.n_way_accuracy import n_way_accuracy
from neuroimagen.trainer.evaluation.metrics.registry import METRICS
from neuroimagen.trainer.evaluation.retrieval.alignment_retrieval import Gallery
from neuroimagen.trainer.evaluation.retrieval.embeddings_table import embed_segments
from neuroimagen.trainer.evaluation.scoring.scoring import EvaluateConfig
from neuroimagen.trainer.networks.alignment import AlignmentModel
from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder
from neuroimagen.trainer.networks.randomness import StepRandom
from neuroimagen.trainer.stages.alignment import AlignmentConfig, AlignmentStage

_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Segments:
    """Segments in memory, in the order of `rows`."""

    rows: Integers
    """Rows of the index, int64 [N]."""
    eeg: Tensor
    """float32 [N, C, T]"""
    label: Integers
    stimulus: Integers

    @classmethod
    def read(cls, dataset: Dataset, rows: Integers) -> "Segments":
        """The segments in `rows` of a data set's index."""
        metadata, index = dataset.metadata, dataset.index
        eeg = np.empty((len(rows), metadata.n_channels, metadata.n_samples), dtype=np.float32)
        for place, row in enumerate(rows.tolist()):
            eeg[place] = dataset.eeg(row)
        return cls(
            rows=rows.astype(np.int64),
            eeg=torch.from_numpy(eeg),
            label=index.label[rows].astype(np.int64),
            stimulus=index.stimulus[rows].astype(np.int64),
        )

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, places: Integers) -> "Segments":
        """Those at `places`."""
        return Segments(
            rows=self.rows[places],
            eeg=self.eeg[torch.from_numpy(places)],
            label=self.label[places],
            stimulus=self.stimulus[places],
        )

    def batch(self, places: Integers, subject: int, device: torch.device | str) -> Batch:
        """Those at `places`, as stages take them, all of subject number `subject`."""
        chosen = self.take(places)

        def tensor(values: Integers) -> Tensor:
            return torch.from_numpy(values).to(device)

        return Batch(
            rows=torch.from_numpy(chosen.rows),
            eeg=chosen.eeg.to(device),
            label=tensor(chosen.label),
            subject=torch.full((len(places),), subject, dtype=torch.int64, device=device),
            stimulus=tensor(chosen.stimulus),
            images=None,
            latents={},
        )


class Decoder(ABC):
    """A stage's network, with what it is trained further by and measured by."""

    stage: str
    """Name of the stage."""
    network: nn.Module
    """As the run has it: an `encoder`, and a head that reads the encoder's features."""
    definitions: Mapping[str, str]
    """Metric → its definition. All are shares."""
    chance: Mapping[str, float]
    """Metric → the figure of guessing."""

    def prepare(self, network: nn.Module, calibration: Segments, subject: int, device: str) -> None:  # noqa: B027
        """Set what the loss needs beside weights, before `network` is trained further. By default nothing."""

    @abstractmethod
    def loss(self, network: nn.Module, batch: Batch, random: StepRandom) -> Tensor:
        """The scalar that training further minimises."""

    @abstractmethod
    def values(self, network: nn.Module, test: Segments, subject: int, device: str) -> dict[str, Floats]:
        """Metric → value of each test segment, float64 [n]."""


def encoders_of(network: nn.Module) -> dict[str, EEGEncoder]:
    """The EEG encoders of a decoder's network by name: `encoder`, and an alignment model's `kept_encoder`."""
    encoders = {name: module for name, module in network.named_children() if isinstance(module, EEGEncoder)}
    assert "encoder" in encoders
    return encoders


# ------------------------------------------------------------------------------------------------------------- classes


class CentroidClassifier(nn.Module):
    """EEG → a logit for each class: the nearest mean of training embeddings, as a linear layer.

    −‖f − μ_k‖² is 2 f·μ_k − ‖μ_k‖² up to a number that all classes share, so the layer begins as the nearest-mean
    classifier of `evaluate`, and can be trained further. Its weights are as large as those of a fresh layer, so that
    one learning rate suits every head; `scale` makes up for it.
    """

    scale: Tensor

    def __init__(self, encoder: EEGEncoder, centroids: Tensor) -> None:
        """`centroids`: mean embedding of each class, [K, F]."""
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(centroids.shape[1], len(centroids))
        unit = float(2 * centroids.square().mean().sqrt()) * math.sqrt(3 * centroids.shape[1])
        with torch.no_grad():
            self.head.weight.copy_(2 * centroids / unit)
            self.head.bias.copy_(-(centroids**2).sum(dim=1) / unit)
        self.register_buffer("scale", torch.tensor(unit))

    def forward(self, eeg: Tensor, subject: Tensor | None = None) -> Tensor:
        logits: Tensor = self.head(self.encoder(eeg, subject))
        return logits * self.scale


class ClassDecoder(Decoder):
    """Identification of the class, by the contrastive stage's encoder or by the classifier stage."""

    def __init__(
        self,
        stage: str,
        network: nn.Module,
        *,
        labels: Integers,
        augment: AugmentConfig,
        config: EvaluateConfig,
        text: str,
    ) -> None:
        """`labels`: the data set's label of each of the network's K classes; `text`: how a class is identified."""
        self.stage = stage
        self.network = network
        self._augment, self._config = augment, config
        self._place = np.full(int(labels.max()) + 1, -1)
        self._place[labels] = np.arange(len(labels))
        self._n_way = min(config.n_way, len(labels))
        others = f"{self._n_way - 1} others drawn at random {config.num_trials} times"
        among = f"all {len(labels)} classes" if self._n_way == len(labels) else f"the true class and {others}"
        self.definitions = {"accuracy": f"share of test segments, one class of {among}: {text}"}
        self.chance = {"accuracy": 1 / self._n_way}

    def places(self, labels: Integers) -> Integers:
        """Which of the network's classes the data set's labels are; −1 for those that it does not have."""
        inside = labels < len(self._place)
        return np.where(inside, self._place[np.where(inside, labels, 0)], -1)

    def prepare(self, network: nn.Module, calibration: Segments, subject: int, device: str) -> None:
        """Fit the scale of the logits on the calibration data; it changes no decision."""
        if not isinstance(network, CentroidClassifier):
            return
        places = self.places(calibration.label)
        logits = torch.from_numpy(self._logits(network, calibration, subject, device)[places >= 0]).double()
        targets = torch.from_numpy(places[places >= 0])
        if len(targets):
            network.scale.mul_(_best_scale(logits, targets))

    def loss(self, network: nn.Module, batch: Batch, random: StepRandom) -> Tensor:
        targets = torch.from_numpy(self.places(batch.label.cpu().numpy())).to(batch.eeg.device)
        logits = network(augment_eeg(batch.eeg, self._augment, random), batch.subject).float()
        kept = targets >= 0
        if not kept.any():
            return logits.sum() * 0.0
        return F.cross_entropy(logits[kept], targets[kept])

    def values(self, network: nn.Module, test: Segments, subject: int, device: str) -> dict[str, Floats]:
        scores = self._logits(network, test, subject, device).astype(np.float64)
        config = self._config
        hits = n_way_accuracy(
            scores, self.places(test.label), n_way=self._n_way, num_trials=config.num_trials, seed=config.seed
        )
        return {"accuracy": hits}

    def _logits(self, network: nn.Module, segments: Segments, subject: int, device: str) -> Floats:
        parts = []
        with torch.inference_mode():
            for start in range(0, len(segments), _BATCH):
                batch = segments.batch(np.arange(start, min(start + _BATCH, len(segments))), subject, device)
                parts.append(network(batch.eeg, batch.subject).float().cpu().numpy())
        return np.concatenate(parts)


def _best_scale(logits: Tensor, targets: Tensor) -> float:
    """The factor of `logits` [n, K] with the least cross-entropy, at least 1 / their spread: logits that say nothing
    are not scaled to nothing, because nothing could be trained through them.
    """
    from scipy.optimize import minimize_scalar

    spread = max(float(logits.std()), 1e-12)

    def entropy(exponent: float) -> float:
        return float(F.cross_entropy(logits * (10.0**exponent / spread), targets))

    # The least value over a line of a convex function of the factor, so a search by sections finds it.
    best = minimize_scalar(entropy, bounds=(0, 4), method="bounded").x
    return float(10.0**best / spread)


# ----------------------------------------------------------------------------------------------------------- retrieval


class RetrievalDecoder(Decoder):
    """Retrieval of the stimulus by the alignment stage's embeddings, trained further by the stage's own loss."""

    stage = "alignment"
    METRICS = ("embedding_top1", "embedding_top5", "embedding_two_way")

    def __init__(
        self,
        network: AlignmentModel,
        *,
        stores: Mapping[str, LatentStore],
        gallery: Gallery,
        settings: AlignmentConfig,
        config: EvaluateConfig,
    ) -> None:
        """`stores`: cached latents of every kind that the stage was trained on; `settings`: the stage's section of the
        recipe.
        """
        self.network = network
        self._stores, self._gallery, self._config = stores, gallery, config
        # Repetitions of a stimulus are averaged over batches that are made for it; single segments are taken here.
        self._stage = _alignment_stage(network, settings)
        numbers: dict[str, Any] = {
            "n_stimuli": len(gallery.stimuli),
            "n_other_stimuli": len(gallery.stimuli) - 1,
            "targets": gallery.targets,
        }
        self.definitions = {name: METRICS[name].define(numbers) for name in self.METRICS}
        chance = embedding_chance(gallery.same_class)
        self.chance = {name: chance[name] for name in self.METRICS}

    def loss(self, network: nn.Module, batch: Batch, random: StepRandom) -> Tensor:
        stimuli = batch.stimulus.cpu().numpy()
        for kind, store in self._stores.items():
            batch.latents[kind] = store.get(stimuli).to(batch.eeg.device)
        self._stage.networks = {"model": network}
        loss, _ = self._stage.phases[0].loss(self._stage.networks, batch, random)
        return loss

    def values(self, network: nn.Module, test: Segments, subject: int, device: str) -> dict[str, Floats]:
        subjects = np.full(len(test), subject, dtype=np.int64)
        model = cast(AlignmentModel, network)
        embeddings = embed_segments(model, test.eeg.numpy(), subjects, device=device)[self._gallery.kind]
        columns = np.searchsorted(self._gallery.stimuli, test.stimulus)
        found = embedding_values(
            self._gallery.similarity(embeddings),
            columns,
            self._gallery.same_class,
            num_trials=self._config.num_trials,
            seed=self._config.seed,
        )
        return {name: found[name] for name in self.METRICS}


def _alignment_stage(network: AlignmentModel, settings: AlignmentConfig) -> AlignmentStage:
    """The stage with its loss; its own network is replaced by the one that is adapted."""
    settings = replace(settings, repetitions=1, finetune_encoder=True)
    with torch.device("meta"):  # without memory: the weights are not used
        stage = AlignmentStage(
            settings,
            encoder=network.encoder.config,
            initial_encoder=None,
            embedding_sizes=network.embedding_sizes,
        )
    stage.networks = {"model": network}
    return stage
