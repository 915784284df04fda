"""Ensembles of classifiers: the mean of probabilities, and the weights of a mixture."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from neuroimagen.trainer.networks.classifier import ClassifierModel
from neuroimagen.trainer.networks.classifier_ensemble import ClassifierEnsemble, mixture_weights
from neuroimagen.trainer.networks.encoders.eeg_encoder import encoder_arguments
from neuroimagen.trainer.networks.encoders.registry import encoder_config
from neuroimagen.trainer.networks.pretrained import load_exported

EEG = torch.randn(9, 4, 40, generator=torch.Generator().manual_seed(0))


def classifiers() -> list[ClassifierModel]:
    torch.manual_seed(0)
    kinds = ("linear", "eegnet", "temporal_spatial")
    return [
        ClassifierModel(
            encoder=encoder_arguments(encoder_config(kind), n_channels=4, n_samples=40, subjects=None), num_classes=3
        ).eval()
        for kind in kinds
    ]


def test_it_is_the_weighted_mean_of_probabilities_and_is_exported(tmp_path: Path) -> None:
    networks = classifiers()
    ensemble = ClassifierEnsemble.of(networks, [1.0, 2.0, 0.0])
    first, second, _ = (network(EEG).softmax(1) for network in networks)
    assert torch.allclose(ensemble(EEG).exp(), (first + 2 * second) / 3, atol=1e-6)
    assert len(ensemble.members) == 2  # without that of weight 0
    ensemble.save_pretrained(tmp_path)
    assert torch.equal(load_exported(tmp_path)(EEG), ensemble(EEG))


def test_what_is_no_ensemble_is_refused() -> None:
    config = classifiers()[0].config
    with pytest.raises(ValueError, match="a weight each"):
        ClassifierEnsemble(members=[config], weights=[0.0])
    with pytest.raises(ValueError, match="the same classes"):
        ClassifierEnsemble(members=[config, config | {"num_classes": 2}], weights=[1.0, 1.0])


def test_weights_are_those_of_the_largest_penalised_likelihood() -> None:
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.integers(0, 2, 50))
    right = rng.uniform(0.2, 0.9, (2, 50))
    right[1] += 0.05
    given = torch.from_numpy(
        np.where(labels.numpy()[None, :, None] == np.arange(2), right[:, :, None], 1 - right[:, :, None])
    )
    found = mixture_weights(given, labels, num_steps=5000)

    def loss(weight: float) -> float:  # with the log of a Dirichlet prior, α = 2
        mixture = weight * right[0] + (1 - weight) * right[1]
        return -float(np.log(mixture).sum() + np.log(weight) + np.log(1 - weight))

    best = minimize_scalar(loss, bounds=(1e-6, 1 - 1e-6), method="bounded", options={"xatol": 1e-9}).x
    assert found[0].item() == pytest.approx(best, abs=1e-4)
    assert float(found.sum()) == pytest.approx(1.0)
