"""The semantic stage's two losses, against closed forms."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neuroimagen.data_shards.loading.reader import Batch
from neuroimagen.trainer.networks.encoders.registry import encoder_config
from neuroimagen.trainer.networks.randomness import StepRandom
from neuroimagen.trainer.networks.semantic import SemanticModel
from neuroimagen.trainer.stages.semantic import SemanticConfig, SemanticStage

CAPTIONS = torch.tensor([[[5.0, -1.0], [5.0, 4.0]], [[5.0, 1.0], [5.0, 0.0]]])  # [2, L, D]; half of it never varies


class Answer(nn.Module):
    """Predicts one hidden state whatever the EEG."""

    def __init__(self, state: Tensor) -> None:
        super().__init__()
        self.state = state

    def forward(self, eeg: Tensor, subject: Tensor | None = None) -> Tensor:
        return self.state.expand(len(eeg), -1, -1)


class Store:
    """Hidden states by stimulus."""

    def get(self, stimuli: np.ndarray) -> Tensor:
        return CAPTIONS[torch.from_numpy(stimuli)]


def loss_of(answer: Tensor, loss: str) -> float:
    """Mean loss over EEG that was recorded with the first caption twice and with the second once."""
    network = {"n_channels": 3, "n_samples": 16, "encoder": dataclasses.asdict(encoder_config(feature_size=4))}
    stage = SemanticStage(SemanticConfig(loss=loss), encoder=network, initial_encoder=None, text_shape=(2, 2))
    model = stage.networks["model"]
    assert isinstance(model, SemanticModel)
    model.fit_targets(Store(), np.array([0, 0, 1]))  # type: ignore[arg-type]
    batch = Batch(
        eeg=torch.zeros(3, 3, 16),
        label=torch.tensor([0, 0, 1]),
        subject=torch.ones(3, dtype=torch.long),
        stimulus=torch.tensor([0, 0, 1]),
        rows=torch.arange(3),
        images=None,
        latents={"text-class": CAPTIONS[[0, 0, 1]]},
    )
    random = StepRandom(0, 0, first=0, count=3, device=torch.device("cpu"))
    return float(stage._loss({"model": Answer(answer)}, batch, random)[0])


def test_squared_l2_is_one_at_the_mean_and_lowest_there() -> None:
    mean = CAPTIONS[[0, 0, 1]].mean(0)
    assert loss_of(mean, "squared_l2") == pytest.approx(1.0, rel=1e-5)
    assert loss_of(mean, "squared_l2") < loss_of(CAPTIONS[0], "squared_l2") < loss_of(CAPTIONS[1], "squared_l2")


def test_l2_is_lowest_at_the_likelier_caption() -> None:
    mean = CAPTIONS[[0, 0, 1]].mean(0)
    apart = loss_of(CAPTIONS[0], "l2")
    # One in three is off, by the captions' distance: standardised, 1.5 / sqrt(0.5) standard deviations of each entry.
    assert apart == pytest.approx((2 * 1e-3 + 1.5 / 0.5**0.5) / 3, rel=1e-3)
    assert apart < loss_of(0.5 * (mean + CAPTIONS[0]), "l2") < loss_of(mean, "l2") < loss_of(CAPTIONS[1], "l2")
