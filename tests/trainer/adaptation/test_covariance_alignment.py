"""Label-free whitening, compared with float64 formulas of NumPy and SciPy and with pyriemann."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from neuroimagen.trainer.adaptation import covariance_alignment
from neuroimagen.trainer.adaptation.covariance_alignment import Moments, align_covariance, moments, shrunk, transport
from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder, build_encoder
from neuroimagen.trainer.networks.encoders.registry import encoder_config

C, T = 5, 30


def spd(seed: int, size: int = C) -> np.ndarray:
    factor = np.random.default_rng(seed).standard_normal((size, 3 * size))
    return factor @ factor.T / size


def recorded(seed: int, number: int = 40) -> Tensor:
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((C, C))
    return torch.from_numpy(mixing @ rng.standard_normal((number, C, T)) + rng.standard_normal((C, 1))).float()


def test_moments_are_those_of_all_samples() -> None:
    eeg, whitening = recorded(0), torch.from_numpy(spd(3))
    found = moments(eeg.split(7), whitening)
    flat = eeg.double().transpose(0, 1).flatten(1).numpy()
    assert np.allclose(found.mean, flat.mean(axis=1))
    assert np.allclose(found.covariance, whitening @ np.cov(flat, bias=True) @ whitening.T)
    centred = whitening.numpy() @ (eeg.double().numpy() - flat.mean(axis=1)[:, None])
    each = np.einsum("nct,ndt->ncd", centred, centred) / T
    spread = ((each - each.mean(axis=0)) ** 2).sum() / (len(each) * (len(each) - 1))
    assert found.error == pytest.approx(spread)
    assert moments(eeg[:1].split(1), whitening).error == float("inf")


def test_the_map_is_the_optimal_transport_between_gaussians() -> None:
    source, target = spd(1), spd(2)
    found = transport(torch.from_numpy(source), torch.from_numpy(target)).numpy()
    assert np.allclose(found, found.T)
    assert (np.linalg.eigvalsh(found) > 0).all()
    assert np.allclose(found @ source @ found, target)
    # Another form of the same map: T (S T)^(-1/2).
    assert np.allclose(found, target @ np.linalg.inv(scipy.linalg.sqrtm(source @ target)).real)


def test_towards_the_identity_it_is_euclidean_alignment() -> None:
    """pyriemann recentres covariances by the Euclidean mean, as He and Wu (2020) do."""
    pyriemann = pytest.importorskip("pyriemann")
    from pyriemann.transfer import TLCenter, encode_domains

    covariances = np.stack([spd(seed) for seed in range(9)])
    _, domains = encode_domains(covariances, np.arange(9) % 2, np.array(["new"] * 9))
    expected = TLCenter(target_domain="new", metric="euclid").fit_transform(covariances, domains)
    change = transport(torch.from_numpy(covariances.mean(axis=0)), torch.eye(C, dtype=torch.float64)).numpy()
    assert np.allclose(change @ covariances @ change, expected), pyriemann.__version__


def test_equal_covariances_need_no_change() -> None:
    same = torch.from_numpy(spd(4))
    assert torch.allclose(transport(same, same), torch.eye(C, dtype=torch.float64))


def test_an_uncertain_covariance_is_drawn_to_the_training_splits() -> None:
    covariance, target = torch.from_numpy(spd(1)), torch.from_numpy(spd(2))

    def found(error: float) -> Tensor:
        return shrunk(Moments(mean=torch.zeros(C), covariance=covariance, error=error), target)

    distance = float(((covariance - target) ** 2).sum())
    assert torch.equal(found(0.0), covariance)
    assert torch.allclose(found(distance / 4), 0.25 * target + 0.75 * covariance)
    assert torch.equal(found(float("inf")), target)


def encoder(eeg: Tensor, **settings: object) -> EEGEncoder:
    torch.manual_seed(0)
    config = encoder_config(feature_size=6, kernel_samples=5, stride_samples=2, **settings)
    made = build_encoder(config, n_channels=C, n_samples=T, subjects=(1, 2))
    made.fit_normalisation([eeg])
    return made.eval()


def test_gains_and_offsets_of_a_new_cap_are_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels with other gains and offsets: the map is exact where the encoder only scales the channels."""
    monkeypatch.setattr(covariance_alignment, "RIDGE", 0.0)
    monkeypatch.setattr(covariance_alignment, "shrunk", lambda found, target: found.covariance)
    trained = recorded(0)
    flat = trained.transpose(0, 1).flatten(1)
    # Uncorrelated channels, so that gains per channel are the least change that explains the covariance.
    _, vectors = torch.linalg.eigh(torch.cov(flat))
    trained = vectors.T @ trained
    gains, offsets = torch.tensor([0.5, 2.0, 3.0, 1.0, 0.2]), torch.tensor([1.0, -2.0, 0.0, 3.0, 5.0])
    new = trained * gains[:, None] + offsets[:, None]
    network = encoder(trained, whiten=False)
    expected = network(trained)
    assert not torch.allclose(network(new), expected, atol=1e-2)
    whitening = network.whitening.clone()
    align_covariance(network, moments([trained], whitening), moments([new], whitening))
    assert torch.allclose(network(new), expected, atol=1e-4)


@pytest.mark.parametrize("whiten", [True, False])
def test_the_new_subjects_covariance_becomes_the_training_splits(whiten: bool) -> None:
    trained, new = recorded(0, 200), recorded(1, 200)
    network = encoder(trained, whiten=whiten)
    whitening = network.whitening.clone()
    expected = moments([trained], whitening)
    align_covariance(network, expected, moments([new], whitening))
    found = moments([new], network.whitening)
    assert torch.allclose(found.mean.float(), network.channel_mean, atol=1e-5)
    before = moments([new], whitening)
    closer = (found.covariance - expected.covariance).norm() / (before.covariance - expected.covariance).norm()
    assert closer < 0.1  # what is left is the shrinkage and the ridge


def test_one_segment_changes_the_mean_alone() -> None:
    trained = recorded(0)
    network = encoder(trained)
    whitening = network.whitening.clone()
    align_covariance(network, moments([trained], whitening), moments([recorded(1)[:1]], whitening))
    assert torch.allclose(network.whitening, whitening, atol=1e-5)


def test_a_direction_that_a_reference_took_away_is_not_blown_up() -> None:
    trained, new = recorded(0), recorded(1)
    trained, new = (eeg - eeg.mean(dim=1, keepdim=True) for eeg in (trained, new))
    network = encoder(trained)
    before = network.whitening.clone()
    align_covariance(network, moments([trained], before), moments([new], before))
    ones = torch.ones(C) / C**0.5
    assert float((network.whitening @ ones).norm()) < 3 * float((before @ ones).norm())
