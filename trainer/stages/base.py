"""What a stage is: the networks it trains, the batches it needs, its losses, the figure that selects its weights.

A stage is one file, which declares all that it needs, and one line in registry.py. The training loop
(trainer/training/loop.py) does the rest, the same for every stage.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self, TypeVar

import numpy as np
from torch import Tensor, nn

from neuroimagen.data_shards.frozen_models.ip_adapter import IPAdapterConfig
from neuroimagen.data_shards.loading.plan import Plan
from neuroimagen.data_shards.loading.reader import Batch
from neuroimagen.trainer.batches.stage_data import BatchNeeds, Shapes, StageData
from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder, Finetuned, choose_finetuned
from neuroimagen.trainer.networks.pretrained import PretrainedModule
from neuroimagen.trainer.networks.randomness import StepRandom
from neuroimagen.trainer.stages.config import EnsembleConfig, SampledStageConfig, StageConfig
from neuroimagen.trainer.stages.validation.segment_figures import SegmentFigures

Network = TypeVar("Network", bound=nn.Module)
Loss = tuple[Tensor, dict[str, Tensor]]
"""A scalar to minimise and figures to log, each a scalar that is averaged over ranks."""


@dataclass(frozen=True)
class Phase:
    """One backward pass and one optimiser step, of one network; the others are frozen meanwhile."""

    network: str
    loss: Callable[[Mapping[str, nn.Module], Batch, StepRandom], Loss]


@dataclass(frozen=True)
class Selection:
    """The validation figure that chooses the exported weights."""

    metric: str
    mode: Literal["max", "min"]

    def better(self, value: float, best: float | None) -> bool:
        return best is None or (value > best if self.mode == "max" else value < best)


def chosen_figure(figures: Sequence[float], config: StageConfig, *, last: bool) -> float | None:
    """What the newest weights are compared with the best so far by; None where they are no candidates.

    figures: of the validations so far, the newest last; the last `smoothed_over` of them are enough.
    """
    if config.select == "last" and not last:
        return None
    if config.select == "smoothed":
        window = figures[-config.smoothed_over :]
        if len(window) < config.smoothed_over and not last:
            return None  # means over fewer validations are the noisiest ones
        return float(np.mean(window))
    return figures[-1]


@dataclass(frozen=True, kw_only=True)
class CrossFit:
    """Trainings that a stage needs before its own: of another stage, once without each fold of the training stimuli."""

    source: str
    """That stage of the same run, or the path of another run's."""
    num_folds: int
    steps: int | None
    """Steps of these trainings; None: as many as that stage was trained for."""

    @staticmethod
    def folder(run: Path, stage: str, fold: int) -> Path:
        """The run in which a fold's trainings for `stage` of `run` are."""
        return run / stage / "folds" / str(fold)

    @staticmethod
    def exports(run: Path, stage: str, source: str, num_folds: int) -> list[Path]:
        """The exports of `source` without fold 0, 1 …, which the trainings for `stage` of `run` leave."""
        name = Path(source).name
        return [CrossFit.folder(run, stage, fold) / name / "export" for fold in range(num_folds)]


class Sampler(Protocol):
    """Draws images of hidden states, for stages that show samples while they train."""

    def draw(
        self,
        hidden: Tensor,
        rows: np.ndarray,
        *,
        pooled: Tensor | None = None,
        unet: nn.Module | None = None,
        image: Mapping[str, Tensor] | None = None,
    ) -> np.ndarray:
        """Images uint8 [n, 3, S, S] of hidden states [n, L, D] that belong to `rows` of the index. `pooled`: pooled
        states [n, P], where the U-Net takes them. `unet`: a network in training, in place of the model folder's.
        `image`: name of each IP-Adapter that `unet` has, in their order → image embeddings [n, E].
        """
        ...

    def decode(self, latents: Tensor) -> np.ndarray:
        """Images uint8 [n, 3, S, S] of scaled latents [n, C, h, w]."""
        ...


@dataclass(frozen=True, kw_only=True)
class StageContext:
    """What a stage is built from beside its section of the recipe."""

    shapes: Shapes
    encoder: dict[str, Any]
    """Keyword arguments of EEGEncoder: as the recipe says, or those of the encoder in `start`."""
    start: PretrainedModule | None
    """The exported network that the stage starts from, of its class `Start`; None: from scratch."""
    model: str
    """Path of the latent diffusion model, as the recipe has it."""
    ip_adapters: Mapping[str, IPAdapterConfig]
    """The recipe's `model.ip_adapters`."""
    run: Path | None
    """The run that the stage is trained in; None where it is not trained, as in a dry run."""
    make_sampler: Callable[[SampledStageConfig], Sampler | None]
    """For stages that sample images; gives None where nothing is to be drawn."""

    def start_encoder(self) -> EEGEncoder | None:
        """The encoder that the stage starts from, if it starts from one."""
        assert self.start is None or isinstance(self.start, EEGEncoder)
        return self.start


class Stage(ABC):
    """A stage of training, and all that the rest of neuroimagen has to know of it.

    Networks are plain modules: the loop wraps them in engines.
    """

    name: ClassVar[str]
    """Its section in the recipe, its folder in a run, its name on the command line."""
    Config: ClassVar[type[StageConfig]]
    """Class of its section in the recipe."""
    Start: ClassVar[type[PretrainedModule]] = EEGEncoder
    """Class of the exported network that it can start from: an encoder, or a network with an attribute `encoder` and a
    method `with_encoder`, as SemanticModel's.
    """
    after: ClassVar[tuple[str, ...]] = ()
    """Stages that it can start from, which come before it."""
    selection: ClassVar[Selection]

    config: Any
    """Of the class `Config`."""
    networks: dict[str, nn.Module]
    phases: tuple[Phase, ...]
    """Run in this order, every step."""

    @classmethod
    @abstractmethod
    def build(cls, config: Any, context: StageContext) -> Self:
        """The stage with freshly initialised networks, drawn from PyTorch's global generator.

        Raises UserError where the recipe's settings do not fit each other.
        """

    @classmethod
    def batch_needs(cls, config: Any) -> BatchNeeds:
        """What its batches carry beside EEG and labels: kinds of cached latent, stimuli. By default nothing."""
        return BatchNeeds()

    @classmethod  # noqa: B027 - most stages take any model
    def check_model(cls, config: Any, folder: Path, ip_adapters: Mapping[str, IPAdapterConfig]) -> None:
        """Raise UserError where the latent diffusion model in `folder` does not serve this stage, by its configurations
        alone: called before data are read. By default every model does. ip_adapters: the recipe's `model.ip_adapters`.
        """

    @classmethod
    def starts_from(cls, config: Any) -> str | None:
        """The stage whose export it starts from: a name for the same run, a path for another's; None: from scratch."""
        return None

    @classmethod
    def reads(cls, config: Any) -> tuple[str, ...]:
        """Stages whose exports it uses as they are, beside the one that it starts from, named in the same way."""
        return ()

    @classmethod
    def cross_fit(cls, config: Any) -> CrossFit | None:
        """The trainings without parts of the stimuli that are made before its own; None: none."""
        return None

    @classmethod
    def ensemble(cls, config: Any) -> EnsembleConfig | None:
        """The trainings whose networks are exported together; None: one training, one network."""
        return None

    @classmethod
    def more_data(cls, config: Any) -> tuple[str, ...]:
        """Data sets that it trains on beside the recipe's: their training splits join that of data.path."""
        return ()

    @property
    def global_batch_size(self) -> int:
        """Segments of a step, over all ranks; by default `batch_size` of the configuration."""
        size: int = self.config.batch_size
        return size

    @property
    def needs(self) -> BatchNeeds:
        """`batch_needs` of this stage's configuration."""
        return self.batch_needs(self.config)

    def plan(self, data: StageData, seed: int) -> Plan:
        """The order of the training split, here shuffled; every global batch has `global_batch_size` segments."""
        return data.shuffled(data.rows("train"), seed, self.global_batch_size)

    def plan_warning(self, plan: Plan, data: StageData) -> str | None:
        """What the user should know of a plan before training starts, as a sentence; by default nothing."""
        return None

    def check(self, data: StageData) -> None:
        """Raise UserError where these data do not allow validation."""
        data.rows("val")

    @abstractmethod
    def prepare(self, data: StageData) -> None:
        """Fit what is estimated from the training split before the first step (normalisations)."""

    @abstractmethod
    def validate(self, networks: Mapping[str, nn.Module], data: StageData) -> dict[str, float] | SegmentFigures:
        """Figures on the validation split; a collective, the same on every rank. Networks come in evaluation mode.

        Figures that are means over segments come segment by segment: then the run keeps those of the exported weights,
        so that two runs can be compared in pairs of equal segments.
        """

    @abstractmethod
    def exported(self, networks: Mapping[str, nn.Module]) -> PretrainedModule:
        """What the stage leaves to later ones."""

    def learning_rate(self, network: str) -> float:
        """Peak learning rate of one of the networks."""
        rate: float = self.config.learning_rate
        return rate


class SampledStage(Stage):
    """A stage that can show what it draws so far."""

    def samples_due(self, step: int) -> bool:
        """Whether to draw after `step` steps."""
        every = self.config.sample_every
        return every is not None and (step % every == 0 or step == self.config.steps)

    @abstractmethod
    def draw(self, networks: Mapping[str, nn.Module], eeg: Tensor, subject: Tensor, rows: np.ndarray) -> np.ndarray:
        """Images uint8 [n, 3, S, S] of segments [n, C, T] of subjects [n]; `rows` of the index give the noise."""


def network_of(networks: Mapping[str, nn.Module], kind: type[Network], name: str = "model") -> Network:
    """One of a stage's networks, which is of the class `kind`."""
    network = networks[name]
    assert isinstance(network, kind)
    return network


def begin_encoder(encoder: EEGEncoder, initial: EEGEncoder | None, finetuned: Finetuned) -> bool:
    """Give a stage's fresh encoder the weights of the one that it starts from, and choose which of them it trains.

    Returns whether the normalisation is still to be fitted: a trained encoder keeps its own.
    """
    if initial is not None:
        encoder.load_state_dict(initial.state_dict())
    choose_finetuned(encoder, finetuned)
    return initial is None


NORMALISATION_SEGMENTS = 512
"""Training segments that an encoder's normalisation is fitted on: the error of a mean over 512 × 440 samples is
negligible.
"""


def fit_encoder_normalisation(encoder: EEGEncoder, data: StageData) -> None:
    """Fit an encoder's channel statistics, and its trunk's own, on segments spread evenly over the training split."""
    rows = data.rows("train")
    chosen = rows[:: max(1, len(rows) // NORMALISATION_SEGMENTS)][:NORMALISATION_SEGMENTS]
    encoder.fit_normalisation(batch.eeg for batch in data.batches(chosen, 64, eeg_only=True))
    encoder.fit_trunk(batch.eeg for batch in data.batches(chosen, 64, eeg_only=True))
