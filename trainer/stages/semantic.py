"""The semantic stage: EEG → the hidden states that a caption has in the text encoder, ‖h − ĥ‖² (Lan et al. 2023, §3.3).

They are the U-Net's cross-attention input, so the target is the whole last hidden state [L, D].
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from neuroimagen.data_shards.dataset.latent_store import LatentStore
from neuroimagen.data_shards.loading.reader import Batch
from neuroimagen.trainer.batches.stage_data import BatchNeeds, StageData
from neuroimagen.trainer.networks.encoders.base import EEGEncoder, Finetuned, choose_finetuned
from neuroimagen.trainer.networks.pretrained import PretrainedModule
from neuroimagen.trainer.networks.randomness import SampleDropout, StepRandom
from neuroimagen.trainer.stages.base import (
    Loss,
    Phase,
    SampledStage,
    SampledStageConfig,
    Selection,
    augment_eeg,
    fit_encoder_normalisation,
)

if TYPE_CHECKING:
    from neuroimagen.trainer.training.samples import PictureSampler


@dataclass(frozen=True, kw_only=True)
class SemanticConfig(SampledStageConfig):
    """The recipe's `semantic` section."""

    target: Literal["text-class", "text-detailed", "text-blip"] = "text-class"
    """Which captions' cached hidden states are the target."""
    loss: Literal["squared_l2", "l2"] = "squared_l2"
    """squared_l2: the paper's ‖h − ĥ‖², whose best answer to EEG that leaves two captions open is their mean, a caption
    of neither. l2: ‖h − ĥ‖, whose best answer is the geometric median: the likelier of the two.
    """
    batch_size: int = 64
    """Segments a step, over all ranks."""
    hidden_size: int = 512
    """Units between the features and the hidden states."""
    head_dropout: float = 0.1
    initialise_from: str | None = "contrastive"
    """Stage of the same run whose exported encoder f_θ starts from; null: from scratch."""
    finetune_encoder: Finetuned = True
    """Train f_θ with the head; subject_layers: of f_θ only the subjects' maps."""


@dataclass(frozen=True, kw_only=True)
class SemanticDetailedConfig(SemanticConfig):
    """The recipe's `semantic_detailed` section: the same stage, captions of the picture instead of the class."""

    target: Literal["text-class", "text-detailed", "text-blip"] = "text-detailed"


class SemanticModel(PretrainedModule):
    """EEG [B, C, T], and with subject layers the subjects [B] → hidden states [B, L, D] of the text encoder.

    Most positions of a short caption are padding, and most of a hidden state is common to all captions. The head
    therefore predicts standardised states; mean and standard deviation of the training part's targets are buffers, so
    what comes out is in the text encoder's own units.
    """

    model_type: ClassVar[str] = "semantic-model"
    target_mean: Tensor
    target_std: Tensor

    def __init__(
        self, *, encoder: dict[str, Any], text_shape: tuple[int, int], hidden_size: int, head_dropout: float
    ) -> None:
        super().__init__()
        self.config = {
            "encoder": encoder,
            "text_shape": list(text_shape),
            "hidden_size": hidden_size,
            "head_dropout": head_dropout,
        }
        num_tokens, width = text_shape
        self.text_shape = (num_tokens, width)
        self.encoder = EEGEncoder(**encoder)
        feature_size = self.encoder.feature_size
        self.head = nn.Sequential(
            nn.LayerNorm(feature_size),
            nn.Linear(feature_size, hidden_size),
            nn.GELU(),
            SampleDropout(head_dropout),
            nn.Linear(hidden_size, num_tokens * width),
        )
        self.register_buffer("target_mean", torch.zeros(num_tokens, width))
        self.register_buffer("target_std", torch.ones(num_tokens, width))

    def forward(self, eeg: Tensor, subject: Tensor | None = None) -> Tensor:
        return self.from_features(self.encoder(eeg, subject))

    def from_features(self, features: Tensor) -> Tensor:
        """The encoder's features [B, F] → hidden states [B, L, D]."""
        return self.head(features).unflatten(1, self.text_shape) * self.target_std + self.target_mean

    def with_encoder(self, encoder: EEGEncoder) -> "SemanticModel":
        """The same head on `encoder`, which computes the same (EEGEncoder.for_subjects)."""
        if encoder is not self.encoder:
            self.encoder = encoder
            self.config = {**self.config, "encoder": encoder.config}
        return self

    def standardised(self, difference: Tensor) -> Tensor:
        """A difference of hidden states [..., L, D] in units of the training targets' spread; 0 where that is 0."""
        varies = self.target_std > 0
        return torch.where(varies, difference / self.target_std.where(varies, 1.0), 0.0)

    @torch.no_grad()
    def fit_targets(self, store: LatentStore, stimuli: np.ndarray) -> None:
        """Set mean and standard deviation from the latents of `stimuli` (rows; repeated ones count as often)."""
        unique, counts = np.unique(stimuli, return_counts=True)
        total = torch.zeros(self.text_shape, dtype=torch.float64)
        square = torch.zeros(self.text_shape, dtype=torch.float64)
        for start in range(0, len(unique), 64):  # hidden states of all captions need not fit in memory
            states = store.get(unique[start : start + 64]).double()
            weights = torch.from_numpy(counts[start : start + 64]).double()
            total += torch.einsum("n,nld->ld", weights, states)
            square += torch.einsum("n,nld->ld", weights, states.square())
        mean = total / len(stimuli)
        std = (square / len(stimuli) - mean.square()).clamp_min(0).sqrt()
        # Below this an entry's spread is rounding (the start token's state, say): it is constant.
        constant = std <= 1e-4 * mean.abs().clamp_min(1e-3)
        self.target_mean.copy_(mean)
        self.target_std.copy_(torch.where(constant, 0.0, std))


class SemanticStage(SampledStage):
    selection = Selection("loss", "min")

    def __init__(
        self,
        config: SemanticConfig,
        *,
        name: str,
        encoder: dict[str, Any],
        initial_encoder: EEGEncoder | None,
        text_shape: tuple[int, int],
        sampler: "PictureSampler | None" = None,
    ) -> None:
        """`sampler`: for `draw`."""
        self.name = name
        self._sampler = sampler
        self.config: SemanticConfig = config
        model = SemanticModel(
            encoder=encoder,
            text_shape=text_shape,
            hidden_size=config.hidden_size,
            head_dropout=config.head_dropout,
        )
        self._fit_normalisation = initial_encoder is None
        if initial_encoder is not None:
            model.encoder.load_state_dict(initial_encoder.state_dict())
        choose_finetuned(model.encoder, config.finetune_encoder)
        self.networks = {"model": model}
        self.phases = (Phase("model", self._loss),)
        self.needs = BatchNeeds(latents=(config.target,))

    @property
    def global_batch_size(self) -> int:
        return self.config.batch_size

    @property
    def _model(self) -> SemanticModel:
        model = self.networks["model"]
        assert isinstance(model, SemanticModel)
        return model

    def prepare(self, data: StageData) -> None:
        if self._fit_normalisation:
            fit_encoder_normalisation(self._model.encoder, data)
        stimuli = data.dataset.index.stimulus[data.rows("train")]
        self._model.fit_targets(data.latents[self.config.target], stimuli)

    def _loss(self, networks: Mapping[str, nn.Module], batch: Batch, random: StepRandom) -> Loss:
        eeg = augment_eeg(batch.eeg, self.config.augment, random)
        distance = self._distance(networks["model"](eeg, batch.subject), batch.latents[self.config.target])
        if self.config.loss == "l2":
            distance = (distance + 1e-6).sqrt()  # away from 0, where the root has no gradient
        return distance.mean(), {}

    def _distance(self, predicted: Tensor, target: Tensor) -> Tensor:
        """‖h − ĥ‖² [B] in standardised units, divided by the number of entries that vary: 1 for predicting the mean."""
        difference = self._model.standardised(predicted - target)
        return difference.square().sum(dim=(1, 2)) / (self._model.target_std > 0).sum().clamp_min(1)

    @torch.no_grad()
    def validate(self, networks: Mapping[str, nn.Module], data: StageData) -> dict[str, float]:
        """Mean ‖h − ĥ‖² (standardised units) and the share of segments whose nearest caption, of all validation
        captions, is their own.
        """
        model = networks["model"]
        store = data.latents[self.config.target]
        rows = data.rows("val")
        stimuli = data.dataset.index.stimulus
        texts, first = np.unique(np.array([store.texts[i] for i in stimuli[rows]]), return_index=True)
        candidates = self._model.standardised(store.get(stimuli[rows[first]]).to(data.device)).flatten(1)
        results = [torch.empty(0, 2, device=data.device)]
        for batch in data.batches(data.share(rows), 64):
            predicted = model(batch.eeg, batch.subject)
            nearest = torch.cdist(self._model.standardised(predicted).flatten(1), candidates).argmin(1)
            own = np.searchsorted(texts, np.array([store.texts[i] for i in batch.stimulus.tolist()]))
            right = nearest == torch.from_numpy(own).to(data.device)
            results.append(
                torch.stack([self._distance(predicted, batch.latents[self.config.target]), right.float()], 1)
            )
        loss, accuracy = data.gather(torch.cat(results)).double().mean(0).tolist()
        return {"loss": loss, "accuracy": accuracy}

    def draw(self, networks: Mapping[str, nn.Module], eeg: Tensor, subject: Tensor, rows: np.ndarray) -> np.ndarray:
        """What the model folder makes of the hidden states alone, without a map."""
        assert self._sampler is not None
        return self._sampler.draw(networks["model"](eeg, subject), rows)

    def exported(self, networks: Mapping[str, nn.Module]) -> PretrainedModule:
        model = networks["model"]
        assert isinstance(model, SemanticModel)
        return model
