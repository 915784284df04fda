"""The whitening matrix against its definition (ZCA-cor: Kessy, Lewin, Strimmer 2018)."""

import torch

from neuroimagen.trainer.networks.encoders.whitening import LEAST_VARIANCE, whitening_matrix


def covariance_of(correlation: float, *stds: float) -> torch.Tensor:
    scales = torch.tensor(stds, dtype=torch.float64)
    matrix = torch.full((len(stds), len(stds)), correlation, dtype=torch.float64)
    return matrix.fill_diagonal_(1.0) * torch.outer(scales, scales)


def test_it_whitens_and_is_the_inverse_root_of_the_correlations_times_the_scales() -> None:
    covariance = covariance_of(0.5, 2.0, 0.1, 30.0)
    found = whitening_matrix(covariance, decorrelate=True)
    assert torch.allclose(found @ covariance @ found.T, torch.eye(3, dtype=torch.float64), atol=1e-12)
    scales = torch.diag(covariance.diagonal().sqrt())
    root = found @ scales  # P^(-1/2), symmetric: every whitened channel stays closest to its own electrode
    assert torch.allclose(root, root.T, atol=1e-12)
    correlations = scales.inverse() @ covariance @ scales.inverse()
    assert torch.allclose(torch.linalg.inv(root @ root), correlations, atol=1e-12)


def test_directions_with_little_variance_are_not_scaled_up_to_one() -> None:
    """Two electrodes that record nearly the same: the difference is mostly noise of the amplifier."""
    covariance = covariance_of(0.99, 1.0, 1.0)
    found = whitening_matrix(covariance, decorrelate=True)
    difference = torch.tensor([1.0, -1.0], dtype=torch.float64) / 2**0.5
    left = difference @ (found @ covariance @ found.T) @ difference
    assert abs(float(left) - 0.01 / LEAST_VARIANCE) < 1e-12


def test_scales_alone_and_a_flat_channel() -> None:
    covariance = covariance_of(0.3, 4.0, 0.0, 0.5)
    plain = whitening_matrix(covariance, decorrelate=False)
    assert torch.equal(plain, torch.diag(torch.tensor([0.25, 1.0, 2.0], dtype=torch.float64)))
    for decorrelate in (True, False):
        silent = whitening_matrix(torch.zeros(3, 3, dtype=torch.float64), decorrelate=decorrelate)
        assert torch.isfinite(silent).all()
