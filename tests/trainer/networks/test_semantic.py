"""The semantic model predicts standardised hidden states and gives them in the text encoder's units."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from neuroimagen.trainer.networks.encoders.eeg_encoder import build_encoder
from neuroimagen.trainer.networks.encoders.registry import encoder_config
from neuroimagen.trainer.networks.semantic import SemanticModel


class Store:
    """Hidden states [n, 2, 3] by stimulus, of which the first position never varies."""

    def __init__(self, count: int) -> None:
        self.states = 5.0 + 2.0 * torch.randn(count, 2, 3, generator=torch.Generator().manual_seed(0))
        self.states[:, 0] = 7.0

    def get(self, stimuli: np.ndarray) -> Tensor:
        assert len(stimuli) <= 64, "hidden states of all captions need not fit in memory"
        return self.states[torch.from_numpy(stimuli)]


@pytest.fixture
def model() -> SemanticModel:
    torch.manual_seed(0)
    encoder = build_encoder(encoder_config(feature_size=8), n_channels=4, n_samples=64)
    return SemanticModel(encoder=encoder.config, text_shape=(2, 3), hidden_size=10, head_dropout=0.0).eval()


def fit(model: SemanticModel, stimuli: np.ndarray) -> Tensor:
    store: Any = Store(150)
    model.fit_targets(store, stimuli)
    states: Tensor = store.states[torch.from_numpy(stimuli)].double()
    return states


def test_targets_are_fitted_on_every_repetition(model: SemanticModel) -> None:
    stimuli = np.random.default_rng(0).integers(0, 150, 400)
    states = fit(model, stimuli)
    assert torch.allclose(model.target_mean.double(), states.mean(0), atol=1e-5)
    assert torch.allclose(model.target_std[1].double(), states.std(0, correction=0)[1], rtol=1e-5)
    assert torch.equal(model.target_std[0], torch.zeros(3))  # rounding is no spread


def test_a_constant_entry_comes_out_constant_and_costs_nothing(model: SemanticModel) -> None:
    fit(model, np.arange(150))
    hidden = model(torch.randn(5, 4, 64))
    assert hidden.shape == (5, 2, 3)
    assert torch.equal(hidden[:, 0], torch.full((5, 3), 7.0))
    difference = model.standardised(torch.full((2, 3), 3.0))
    assert torch.equal(difference[0], torch.zeros(3))
    assert torch.allclose(difference[1], 3.0 / model.target_std[1])


def test_units_are_part_of_the_export(model: SemanticModel, tmp_path: Path) -> None:
    fit(model, np.arange(150))
    model.save_pretrained(tmp_path)
    again, eeg = SemanticModel.from_pretrained(tmp_path), torch.randn(3, 4, 64)
    assert again.text_shape == (2, 3)
    assert torch.equal(again(eeg), model(eeg))


def test_another_encoder_that_computes_the_same_takes_its_place(model: SemanticModel) -> None:
    eeg, subject = torch.randn(3, 4, 64), torch.tensor([1, 2, 2])
    before = model(eeg)
    assert model.with_encoder(model.encoder) is model
    wider = model.encoder.for_subjects([1, 2])
    changed = model.with_encoder(wider)
    assert changed.config["encoder"] == wider.config
    assert torch.allclose(changed(eeg, subject), before, atol=1e-5)


def pooled_model() -> SemanticModel:
    torch.manual_seed(0)
    encoder = build_encoder(encoder_config(feature_size=8), n_channels=4, n_samples=64)
    return SemanticModel(
        encoder=encoder.config, text_shape=(2, 3), hidden_size=10, head_dropout=0.0, pooled_size=5
    ).eval()


def test_the_condition_has_a_pooled_state_where_the_model_was_made_with_one(model: SemanticModel) -> None:
    eeg = torch.randn(3, 4, 64)
    hidden, pooled = model.condition(eeg)
    assert pooled is None
    assert torch.equal(hidden, model(eeg))
    assert "pooled_size" not in model.config  # as earlier versions export it
    both = pooled_model()
    # The hidden states are those of the same model without one: the pooled head is drawn last.
    hidden, pooled = both.condition(eeg)
    assert pooled is not None
    assert pooled.shape == (3, 5)
    assert torch.equal(hidden, model(eeg))
    assert torch.equal(both(eeg), hidden)
    assert torch.equal(both(eeg, with_pooled=True)[1], pooled)


def test_pooled_states_come_out_in_the_encoder_s_units(tmp_path: Path) -> None:
    model = pooled_model()

    class Pooled:
        states = 3.0 * torch.randn(150, 5, generator=torch.Generator().manual_seed(2)) - 1.0

        def get(self, stimuli: np.ndarray) -> Tensor:
            return self.states[torch.from_numpy(stimuli)]

    stores: Any = (Store(150), Pooled())
    stimuli = np.random.default_rng(0).integers(0, 150, 400)
    model.fit_targets(stores[0], stimuli, pooled=stores[1])
    states = Pooled.states[torch.from_numpy(stimuli)].double()
    assert torch.allclose(model.pooled_mean.double(), states.mean(0), atol=1e-5)
    assert torch.allclose(model.pooled_std.double(), states.std(0, correction=0), rtol=1e-5)
    with torch.no_grad():
        model.pooled_head.weight.zero_()
        model.pooled_head.bias.fill_(1.0)
    eeg = torch.randn(3, 4, 64)
    _, pooled = model.condition(eeg)
    assert torch.allclose(pooled, (model.pooled_mean + model.pooled_std).expand(3, -1))
    distances = model.pooled_distance(pooled, model.pooled_mean.expand(3, -1))
    assert torch.allclose(distances, torch.ones(3))
    model.save_pretrained(tmp_path)
    again = SemanticModel.from_pretrained(tmp_path)
    assert again.pooled_size == 5
    assert all(torch.equal(*pair) for pair in zip(again.condition(eeg), model.condition(eeg), strict=True))
