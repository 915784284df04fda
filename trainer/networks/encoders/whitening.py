"""Decorrelating the channels by the covariance of the training split."""

import torch
from torch import Tensor

LEAST_VARIANCE = 0.1
"""Smallest variance, of a mean channel's 1, that whitening scales up to 1."""


def whitening_matrix(covariance: Tensor, *, decorrelate: bool) -> Tensor:
    """W [C, C] with W Σ Wᵀ = 1 for a covariance Σ [C, C] float64, symmetric up to the channels' scales (ZCA-cor: Kessy,
    Lewin, Strimmer 2018); without `decorrelate` only the scales, diag(1/σ).

    A flat channel carries nothing: it is left at unit scale instead of being blown up. Neither are directions with less
    than LEAST_VARIANCE of a channel's mean variance, which hold rounding and amplifier noise.
    """
    std = covariance.diagonal().clamp_min(0).sqrt()
    std = torch.where(std > 1e-6 * std.max().clamp_min(1e-12), std, torch.ones_like(std))
    if not decorrelate:
        return torch.diag(1 / std)
    variances, directions = torch.linalg.eigh(covariance / torch.outer(std, std))
    return directions @ torch.diag(variances.clamp_min(LEAST_VARIANCE).rsqrt()) @ directions.T @ torch.diag(1 / std)
