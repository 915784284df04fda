"""The tangent-space encoder against pyriemann."""

import numpy as np
import pytest
import torch
from pyriemann.estimation import Covariances
from pyriemann.tangentspace import TangentSpace

from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder, build_encoder
from neuroimagen.trainer.networks.encoders.registry import encoder_config
from neuroimagen.trainer.networks.encoders.tangent import shrunk_covariance

EEG = torch.randn(30, 6, 80, generator=torch.Generator().manual_seed(0)).cumsum(2)
EEG = EEG + 0.5 * EEG.roll(1, dims=1) + torch.arange(6.0)[:, None]


def fitted(**settings: object) -> EEGEncoder:
    torch.manual_seed(0)
    encoder = build_encoder(encoder_config("tangent", **settings), n_channels=6, n_samples=80).eval()
    encoder.fit_normalisation([EEG])
    encoder.fit_trunk([EEG[:10], EEG[10:]])
    return encoder


def test_covariances_are_shrunk_as_scikit_learn_does() -> None:
    expected = Covariances("oas").transform(EEG.double().numpy())
    assert np.allclose(shrunk_covariance(EEG.double()).numpy(), expected, rtol=1e-9)


def test_a_flat_segment_gives_finite_features() -> None:
    assert fitted()(torch.zeros(2, 6, 80)).isfinite().all()


@pytest.mark.parametrize("components", [3, 6])
@pytest.mark.parametrize("evoked", [False, True])
def test_tangent_vectors_are_pyriemanns(components: int, evoked: bool) -> None:
    encoder = fitted(spatial_components=components, evoked=evoked)
    trunk = encoder.trunk
    covariances = trunk.covariances(EEG, encoder.channel_mean, encoder.whitening)
    size = 2 * components if evoked else components
    assert covariances.shape == (30, size, size)
    expected = TangentSpace(metric="riemann").fit_transform(covariances.numpy())
    assert np.allclose(trunk.tangent(covariances).numpy(), expected, atol=1e-4)


def test_the_template_is_the_mean_of_the_spatial_components() -> None:
    encoder = fitted(spatial_components=4, evoked=True)
    components = encoder.trunk.spatial @ encoder.whitening @ (EEG - encoder.channel_mean[:, None])
    assert torch.allclose(encoder.trunk.template, components.mean(0), atol=1e-4)
    # Principal components of the recorded channels: uncorrelated, of variance 1.
    values = components.transpose(0, 1).flatten(1).double()
    assert torch.allclose(values @ values.T / values.shape[1], torch.eye(4).double(), atol=1e-3)


def test_gradients_reach_the_head_alone() -> None:
    encoder = fitted().train()
    encoder(EEG).sum().backward()
    assert {name for name, parameter in encoder.named_parameters() if parameter.grad is not None} == {
        "trunk.head.weight",
        "trunk.head.bias",
    }
