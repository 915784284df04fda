"""The semantic stage: EEG → the hidden states that a caption has in the text encoder, ‖h − ĥ‖² (Lan et al. 2023, §3.3).

They are the U-Net's cross-attention input, so the target is the whole last hidden state [L, D]. Where the U-Net takes a
pooled state beside them (SDXL), the stage predicts that too.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from neuroimagen.data_shards.loading.reader import Batch
from neuroimagen.trainer.batches.augmentation import augment_eeg
from neuroimagen.trainer.batches.stage_data import BatchNeeds, StageData
from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder, Finetuned
from neuroimagen.trainer.networks.pretrained import PretrainedModule
from neuroimagen.trainer.networks.randomness import StepRandom
from neuroimagen.trainer.networks.semantic import SemanticModel
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


@dataclass(frozen=True, kw_only=True)
class SemanticConfig(SampledStageConfig):
    """The recipe's `semantic` section."""

    target: Literal["text-class", "text-detailed", "text-blip"] = "text-class"
    """Which captions' cached hidden states are the target."""
    loss: Literal["squared_l2", "l2"] = "squared_l2"
    """squared_l2: the paper's ‖h − ĥ‖², whose best answer to EEG that leaves two captions open is their mean, a caption
    of neither. l2: ‖h − ĥ‖, whose best answer is the geometric median: the likelier of the two.
    """
    pooled_weight: float = 1.0
    """Weight of the pooled state's loss beside that of the hidden states, where the U-Net takes a pooled state (SDXL);
    its cached kind is pooled-class for text-class, and so on.
    """
    batch_size: int = 64
    """Segments of a step, over all ranks."""
    hidden_size: int = 512
    """Units between the features and the hidden states."""
    head_dropout: float = 0.1
    initialise_from: str | None = "contrastive"
    """Stage of the same run whose exported encoder f_θ starts from; null: from scratch."""
    finetune_encoder: Finetuned = True
    """Train f_θ with the head; subject_layers: of f_θ only the subjects' maps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.pooled_weight < math.inf:
            raise ValueError(f"pooled_weight must be positive, got {self.pooled_weight}")

    @property
    def pooled_target(self) -> str:
        """The cached kind of pooled states of the same captions."""
        return self.target.replace("text-", "pooled-")


@dataclass(frozen=True, kw_only=True)
class SemanticDetailedConfig(SemanticConfig):
    """The recipe's `semantic_detailed` section: captions of the single stimulus instead of its class."""

    target: Literal["text-class", "text-detailed", "text-blip"] = "text-detailed"


class SemanticStage(SampledStage):
    name = "semantic"
    Config = SemanticConfig
    after = ("masked", "contrastive", "alignment")
    selection = Selection("loss", "min")

    def __init__(
        self,
        config: SemanticConfig,
        *,
        encoder: dict[str, Any],
        initial_encoder: EEGEncoder | None,
        text_shape: tuple[int, int],
        pooled_size: int | None = None,
        sampler: Sampler | None = None,
    ) -> None:
        """`pooled_size`: width of the pooled state that the U-Net takes, if it takes one. `sampler`: for `draw`."""
        self._sampler = sampler
        self.config: SemanticConfig = config
        model = SemanticModel(
            encoder=encoder,
            text_shape=text_shape,
            hidden_size=config.hidden_size,
            head_dropout=config.head_dropout,
            pooled_size=pooled_size,
        )
        self._fit_normalisation = begin_encoder(model.encoder, initial_encoder, config.finetune_encoder)
        self.networks = {"model": model}
        self.phases = (Phase("model", self._loss),)

    @classmethod
    def build(cls, config: SemanticConfig, context: StageContext) -> Self:
        return cls(
            config,
            encoder=context.encoder,
            initial_encoder=context.start_encoder(),
            text_shape=context.shapes.text_shape,
            pooled_size=context.shapes.pooled_size,
            sampler=context.make_sampler(config),
        )

    @classmethod
    def batch_needs(cls, config: SemanticConfig) -> BatchNeeds:
        return BatchNeeds(latents=(config.target,), pooled=config.pooled_target)

    @property
    def needs(self) -> BatchNeeds:
        return super().needs.of_model(takes_pooled=self._model.pooled_size is not None)

    @classmethod
    def starts_from(cls, config: SemanticConfig) -> str | None:
        return config.initialise_from

    @property
    def _model(self) -> SemanticModel:
        return network_of(self.networks, SemanticModel)

    def prepare(self, data: StageData) -> None:
        if self._fit_normalisation:
            fit_encoder_normalisation(self._model.encoder, data)
        stimuli = data.dataset.index.stimulus[data.rows("train")]
        self._model.fit_targets(
            data.latents[self.config.target], stimuli, pooled=data.latents.get(self.config.pooled_target)
        )

    def _loss(self, networks: Mapping[str, nn.Module], batch: Batch, random: StepRandom) -> Loss:
        eeg = augment_eeg(batch.eeg, self.config.augment, random)
        predicted, predicted_pooled = networks["model"](eeg, batch.subject, with_pooled=True)
        hidden, pooled = self._distances(predicted, predicted_pooled, batch)
        if self.config.loss == "l2":
            # Away from 0, where the root has no gradient.
            hidden, pooled = (hidden + 1e-6).sqrt(), None if pooled is None else (pooled + 1e-6).sqrt()
        loss = hidden.mean()
        if pooled is None:
            return loss, {}
        return loss + self.config.pooled_weight * pooled.mean(), {"pooled_loss": pooled.detach().mean()}

    def _distances(self, hidden: Tensor, pooled: Tensor | None, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """‖h − ĥ‖² [B] of predicted hidden states and, where there are any, of pooled ones (SemanticModel.distance)."""
        distance = self._model.distance(hidden, batch.latents[self.config.target])
        if pooled is None:
            return distance, None
        return distance, self._model.pooled_distance(pooled, batch.latents[self.config.pooled_target])

    @torch.no_grad()
    def validate(self, networks: Mapping[str, nn.Module], data: StageData) -> dict[str, float]:
        """The loss with ‖h − ĥ‖² (standardised units), and the share of segments whose nearest caption by the hidden
        states, of all validation captions, is their own.
        """
        network, model = networks["model"], self._model
        store = data.latents[self.config.target]
        rows = data.rows("val")
        stimuli = data.dataset.index.stimulus
        texts, first = np.unique(np.array([store.texts[i] for i in stimuli[rows]]), return_index=True)
        candidates = model.standardised(store.get(stimuli[rows[first]]).to(data.device)).flatten(1)
        results = [torch.empty(0, 3, device=data.device)]
        for batch in data.batches(data.share(rows), 64):
            hidden, pooled = network(batch.eeg, batch.subject, with_pooled=True)
            nearest = torch.cdist(model.standardised(hidden).flatten(1), candidates).argmin(1)
            own = np.searchsorted(texts, np.array([store.texts[i] for i in batch.stimulus.tolist()]))
            right = nearest == torch.from_numpy(own).to(data.device)
            distance, pooled_distance = self._distances(hidden, pooled, batch)
            of_pooled = torch.zeros_like(distance) if pooled_distance is None else pooled_distance
            results.append(torch.stack([distance, right.float(), of_pooled], 1))
        loss, accuracy, pooled_loss = data.gather(torch.cat(results)).double().mean(0).tolist()
        if model.pooled_size is None:
            return {"loss": loss, "accuracy": accuracy}
        return {
            "loss": loss + self.config.pooled_weight * pooled_loss,
            "accuracy": accuracy,
            "pooled_loss": pooled_loss,
        }

    def draw(self, networks: Mapping[str, nn.Module], eeg: Tensor, subject: Tensor, rows: np.ndarray) -> np.ndarray:
        """What the model folder makes of the predicted states alone, without a map."""
        assert self._sampler is not None
        hidden, pooled = networks["model"](eeg, subject, with_pooled=True)
        return self._sampler.draw(hidden, rows, pooled=pooled)

    def exported(self, networks: Mapping[str, nn.Module]) -> PretrainedModule:
        return network_of(networks, SemanticModel)


class SemanticDetailedStage(SemanticStage):
    """The semantic stage on captions of the single stimulus, beside the one on captions of its class."""

    name = "semantic_detailed"
    Config = SemanticDetailedConfig
