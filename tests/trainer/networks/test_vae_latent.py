"""The regression of VAE latents: sizes of its heads, statistics of its targets, scaling, export."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neuroimagen.trainer.networks.encoders.registry import encoder_config
from neuroimagen.trainer.networks.vae_latent import VaeLatentModel, deconvolution


def model(**changes: Any) -> VaeLatentModel:
    settings: dict[str, Any] = {
        "encoder": {"n_channels": 3, "n_samples": 20, "encoder": dataclasses.asdict(encoder_config(feature_size=5))},
        **{"latent_shape": (4, 8, 12), "scaling_factor": 0.5, "shift": 1.0, "head": "deconvolution"},
        **{"grid_size": 2, "head_width": 32, "head_dropout": 0.0, **changes},
    }
    torch.manual_seed(0)
    return VaeLatentModel(**settings)


@pytest.mark.parametrize(
    ("shape", "grid_size", "doublings"),
    [((4, 64, 64), 1, 6), ((4, 64, 64), 4, 4), ((4, 8, 12), 2, 2), ((3, 7, 7), 1, 0), ((4, 8, 8), 8, 0)],
    ids=str,
)
def test_the_grid_is_doubled_until_it_has_the_latents_size(
    shape: tuple[int, int, int], grid_size: int, doublings: int
) -> None:
    """ATM's six transposed convolutions for 64×64 from one place."""
    head = deconvolution(5, shape, grid_size=grid_size, width=32, dropout=0.0)
    assert sum(isinstance(layer, nn.ConvTranspose2d) for layer in head) == doublings
    assert head(torch.randn(2, 5)).shape == (2, *shape)


class Store:
    """Posteriors by stimulus."""

    posteriors = torch.randn(3, 2, 4, 8, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64).float()

    def get(self, stimuli: np.ndarray) -> Tensor:
        return self.posteriors[torch.from_numpy(stimuli)]


@pytest.mark.parametrize("head", ["deconvolution", "linear"])
def test_it_predicts_scaled_latents_about_their_mean(head: str, tmp_path: Path) -> None:
    network = model(head=head).eval()
    network.fit_targets(Store(), np.array([0, 0, 1, 2]))  # type: ignore[arg-type]
    scaled = (Store.posteriors[:, 0].double().numpy() - 1.0) * 0.5
    np.testing.assert_allclose(network.scaled(Store.posteriors).numpy(), scaled, atol=1e-6)
    mean = scaled.mean(0)
    spread = np.sqrt(((scaled - mean) ** 2).mean(axis=(0, 2, 3)))[:, None, None]
    np.testing.assert_allclose(network.target_mean.numpy(), mean, atol=1e-6)
    np.testing.assert_allclose(network.target_std.numpy(), spread, rtol=1e-5)
    found = network.standardised(torch.from_numpy(scaled).float()).numpy()
    np.testing.assert_allclose(found, (scaled - mean) / spread, atol=1e-5)
    eeg = torch.randn(2, 3, 20)
    expected = network.head(network.encoder(eeg)) * network.target_std + network.target_mean
    assert torch.equal(network(eeg), expected)
    network.save_pretrained(tmp_path)
    assert torch.equal(VaeLatentModel.from_pretrained(tmp_path)(eeg), expected)
