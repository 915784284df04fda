"""The masked stage: pre-trains the transformer encoder on all segments, without labels.

Masked signal modelling (DreamDiffusion, Bai et al. 2023): `mask_share` of the tokens are hidden, and the loss is the
squared error of the hidden ones in whitened units: 1 is what predicting the mean gives.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.loading.reader import Batch
from neuroimagen.trainer.batches.augmentation import augment_eeg
from neuroimagen.trainer.batches.stage_data import StageData
from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder
from neuroimagen.trainer.networks.encoders.transformer import TransformerTrunk
from neuroimagen.trainer.networks.masked import MaskedModel
from neuroimagen.trainer.networks.pretrained import PretrainedModule
from neuroimagen.trainer.networks.randomness import StepRandom
from neuroimagen.trainer.stages.base import Loss, Phase, Selection, Stage, StageContext, fit_encoder_normalisation
from neuroimagen.trainer.stages.config import StageConfig


@dataclass(frozen=True, kw_only=True)
class MaskedConfig(StageConfig):
    """The recipe's `masked` section."""

    batch_size: int = 256
    """Segments of a step, over all ranks."""
    more_data: tuple[str, ...] = ()
    """Further data sets (folders or URLs) whose training splits join that of data.path, every segment once per epoch;
    they need its sampling rate, its length or more, and its channels by name (data_shards/dataset/joined.py).
    """
    mask_share: float = 0.75
    """Share of a segment's tokens that are hidden."""
    decoder_width: int = 64
    decoder_depth: int = 1
    activation_checkpointing: bool = False
    """Compute the blocks' activations again in the backward pass: less memory, a third more time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.mask_share < 1.0:
            raise ValueError(f"mask_share must lie in (0, 1), got {self.mask_share}")
        if self.decoder_width % max(1, self.decoder_width // 32):
            raise ValueError(f"decoder_width must be a multiple of 32 (or below 64), got {self.decoder_width}")


class MaskedStage(Stage):
    name = "masked"
    Config = MaskedConfig
    selection = Selection("loss", "min")

    def __init__(self, config: MaskedConfig, *, encoder: dict[str, object]) -> None:
        settings = encoder["encoder"]
        assert isinstance(settings, dict)
        if settings["kind"] != "transformer":
            raise UserError(
                f"masked pre-training hides tokens of a transformer; encoder.kind is {settings['kind']!r}. Set "
                "encoder.kind=transformer."
            )
        self.config: MaskedConfig = config
        model = MaskedModel(encoder=encoder, decoder_width=config.decoder_width, decoder_depth=config.decoder_depth)
        model.trunk.checkpointing = config.activation_checkpointing
        self._num_tokens = model.trunk.num_tokens
        self._num_visible = max(1, round(self._num_tokens * (1.0 - config.mask_share)))
        self.networks = {"model": model}
        self.phases = (Phase("model", self._loss),)

    @classmethod
    def build(cls, config: MaskedConfig, context: StageContext) -> Self:
        return cls(config, encoder=context.encoder)

    @classmethod
    def more_data(cls, config: MaskedConfig) -> tuple[str, ...]:
        return config.more_data

    def prepare(self, data: StageData) -> None:
        model = self.networks["model"]
        assert isinstance(model, MaskedModel)
        fit_encoder_normalisation(model.encoder, data)

    def _loss(self, networks: Mapping[str, nn.Module], batch: Batch, random: StepRandom) -> Loss:
        eeg = augment_eeg(batch.eeg, self.config.augment, random)
        order = random.uniform("mask", self._num_tokens).argsort(dim=1)
        loss: Tensor = networks["model"](eeg, order, self._num_visible, batch.subject).mean()
        return loss, {}

    @torch.no_grad()
    def validate(self, networks: Mapping[str, nn.Module], data: StageData) -> dict[str, float]:
        """Mean squared error of the hidden tokens on the validation split; a segment always hides the same ones."""
        errors = [torch.empty(0, device=data.device)]
        for batch in data.batches(data.share(data.rows("val")), 64, eeg_only=True):
            generator = [torch.Generator().manual_seed(int(row)) for row in batch.rows]
            order = torch.stack([torch.randperm(self._num_tokens, generator=one) for one in generator])
            errors.append(networks["model"](batch.eeg, order.to(data.device), self._num_visible, batch.subject))
        return {"loss": data.gather(torch.cat(errors)).double().mean().item()}

    def exported(self, networks: Mapping[str, nn.Module]) -> PretrainedModule:
        """The encoder, for other stages to begin with (`initialise_from: masked`); its head is as it was made."""
        model = networks["model"]
        assert isinstance(model, MaskedModel)
        encoder = model.encoder
        assert isinstance(encoder, EEGEncoder)
        assert isinstance(encoder.trunk, TransformerTrunk)
        return encoder
