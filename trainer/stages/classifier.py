"""The classifier stage: EEG → class, by cross-entropy. A baseline, and what pre-trained encoders are measured by."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.loading.plan import Plan
from neuroimagen.data_shards.loading.reader import Batch
from neuroimagen.trainer.batches.augmentation import augment_eeg
from neuroimagen.trainer.batches.stage_data import StageData
from neuroimagen.trainer.networks.classifier import ClassifierModel
from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder, Finetuned
from neuroimagen.trainer.networks.pretrained import PretrainedModule
from neuroimagen.trainer.networks.randomness import StepRandom, derive_seed
from neuroimagen.trainer.stages.base import (
    Loss,
    Phase,
    Selection,
    Stage,
    StageContext,
    begin_encoder,
    fit_encoder_normalisation,
    network_of,
)
from neuroimagen.trainer.stages.config import EnsembleConfig, StageConfig
from neuroimagen.trainer.stages.validation.zero_shot import is_zero_shot


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(StageConfig):
    """The recipe's `classifier` section."""

    batch_size: int = 64
    """Segments of a step, over all ranks."""
    label_share: float = 1.0
    """Share of each class's training segments that are used, at least one; the same ones for one seed of the recipe."""
    label_smoothing: float = 0.0
    """Share of the target's probability that is spread over all classes; 0.1 keeps few segments from being learnt by
    heart."""
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    """Cross-validation, seeds and encoders whose networks are exported together."""
    initialise_from: str | None = None
    """Stage of the same run (`masked`, `contrastive`, `alignment`), or folder of another run's, whose exported encoder
    f_θ starts from; null: from scratch.
    """
    refit_normalisation: bool = False
    """Fit the channels' mean and covariance again where f_θ starts from another encoder: for a new subject or cap."""
    finetune_encoder: Finetuned = True
    """Train f_θ with the last layer; false: a linear probe; subject_layers: of f_θ only the subjects' maps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.label_share <= 1.0:
            raise ValueError(f"label_share must lie in (0, 1], got {self.label_share}")
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {self.label_smoothing}")
        if self.ensemble.encoders and self.initialise_from is not None:
            raise ValueError("ensemble.encoders are trained from scratch; leave initialise_from at null")
        if self.ensemble.folds is not None and self.initialise_from is not None:
            raise ValueError(
                "ensemble.folds must not start from an encoder that has seen their segments; leave initialise_from at "
                "null"
            )


class ClassifierStage(Stage):
    name = "classifier"
    Config = ClassifierConfig
    after = ("masked", "contrastive", "alignment")
    selection = Selection("accuracy", "max")

    def __init__(
        self,
        config: ClassifierConfig,
        *,
        encoder: dict[str, Any],
        initial_encoder: EEGEncoder | None,
        num_classes: int,
    ) -> None:
        self.config: ClassifierConfig = config
        model = ClassifierModel(encoder=encoder, num_classes=num_classes)
        self._fit_normalisation = begin_encoder(model.encoder, initial_encoder, config.finetune_encoder)
        self.networks = {"model": model}
        self.phases = (Phase("model", self._loss),)

    @classmethod
    def build(cls, config: ClassifierConfig, context: StageContext) -> Self:
        return cls(
            config,
            encoder=context.encoder,
            initial_encoder=context.start_encoder(),
            num_classes=context.shapes.num_classes,
        )

    @classmethod
    def starts_from(cls, config: ClassifierConfig) -> str | None:
        return config.initialise_from

    @classmethod
    def ensemble(cls, config: ClassifierConfig) -> EnsembleConfig | None:
        return config.ensemble if config.ensemble.is_asked_for else None

    def plan(self, data: StageData, seed: int) -> Plan:
        rows = labelled_rows(data.rows("train"), data.dataset.index.label, self.config.label_share, seed)
        return data.shuffled(rows, seed, self.global_batch_size)

    def check(self, data: StageData) -> None:
        label = data.dataset.index.label
        if is_zero_shot(label[data.rows("train")], label[data.rows("val")]):
            raise UserError(
                "no class of the validation split is trained on (a zero-shot split), so a classifier can never "
                "be right. Train the contrastive stage, or make a split with the same classes in train, val and test."
            )

    def prepare(self, data: StageData) -> None:
        model = self.networks["model"]
        assert isinstance(model, ClassifierModel)
        if self._fit_normalisation or self.config.refit_normalisation:
            fit_encoder_normalisation(model.encoder, data)

    def _loss(self, networks: Mapping[str, nn.Module], batch: Batch, random: StepRandom) -> Loss:
        eeg = augment_eeg(batch.eeg, self.config.augment, random)
        logits = networks["model"](eeg, batch.subject).float()
        right = (logits.detach().argmax(1) == batch.label).float().mean()
        return F.cross_entropy(logits, batch.label, label_smoothing=self.config.label_smoothing), {
            "train_accuracy": right
        }

    @torch.no_grad()
    def validate(self, networks: Mapping[str, nn.Module], data: StageData) -> dict[str, float]:
        """Share of validation segments whose class has the highest logit, and the mean cross-entropy."""
        results = [torch.empty(0, 2, device=data.device)]
        for batch in data.batches(data.share(data.rows("val")), 64, eeg_only=True):
            logits = networks["model"](batch.eeg, batch.subject).float()
            right = (logits.argmax(1) == batch.label).float()
            results.append(torch.stack([right, F.cross_entropy(logits, batch.label, reduction="none")], dim=1))
        accuracy, loss = data.gather(torch.cat(results)).double().mean(0).tolist()
        return {"accuracy": accuracy, "loss": loss}

    def exported(self, networks: Mapping[str, nn.Module]) -> PretrainedModule:
        return network_of(networks, ClassifierModel)


def labelled_rows(rows: np.ndarray, label: np.ndarray, share: float, seed: int) -> np.ndarray:
    """`share` of each class's rows, rounded, at least one; in the order of `rows`."""
    if share == 1.0:
        return rows
    chosen = []
    for value in np.unique(label[rows]):
        own = rows[label[rows] == value]
        count = max(1, round(share * len(own)))
        drawn = np.random.default_rng(derive_seed(seed, "labels", int(value))).permutation(len(own))[:count]
        chosen.append(own[np.sort(drawn)])
    return np.sort(np.concatenate(chosen))
