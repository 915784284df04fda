"""The segment's covariance of the channels, in the tangent space of the Riemannian mean: for power, with few segments.

Shapes: B segments, C channels, T samples, K spatial components, F features.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from neuroimagen.trainer.networks.encoders.base import EncoderConfig, Trunk
from neuroimagen.trainer.networks.fitted_projection import FittedProjection
from neuroimagen.trainer.networks.randomness import SampleDropout

MEAN_TOLERANCE = 1e-9
MAX_MEAN_STEPS = 50


@dataclass(frozen=True, kw_only=True)
class TangentConfig(EncoderConfig):
    """`encoder.kind: tangent`: what the channels' variances and covariances tell, at whatever time it happens."""

    kind: Literal["tangent"] = "tangent"
    dropout: float = 0.5
    """Share of the components that are zeroed in training."""
    spatial_components: int = 16
    """K: principal components over the channels of which the covariance is taken; at most the number of channels."""
    evoked: bool = False
    """Put the mean response of the training segments beside the segment's channels, so that their covariance with it
    tells the evoked response as well (Barachant, Congedo 2014)."""
    components: int = 100
    """Principal components of the tangent vectors that are kept, fitted on training segments."""


class TangentTrunk(Trunk):
    """f(x) = W P upper(log(M^-½ Σ(x) M^-½)): Σ the segment's covariance with OAS shrinkage (Chen et al. 2010), M the
    Riemannian mean of those of the training segments (Barachant et al. 2012), both K × K (with `evoked` 2K × 2K);
    entries off the diagonal count √2, so that Euclidean distances are those of the tangent space.

    M, the spatial components and P are fitted before the first step; one linear layer is trained.
    """

    Config = TangentConfig
    spatial: Tensor
    template: Tensor
    inverse_root: Tensor

    def __init__(self, config: TangentConfig, *, n_channels: int, n_samples: int) -> None:
        super().__init__(config, n_channels=n_channels, n_samples=n_samples)
        size = min(config.spatial_components, n_channels)
        self.evoked = config.evoked
        self.register_buffer("spatial", torch.eye(size, n_channels))
        self.register_buffer("template", torch.zeros(size if config.evoked else 0, n_samples))
        total = 2 * size if config.evoked else size
        self.register_buffer("inverse_root", torch.eye(total))
        self.project = FittedProjection(total * (total + 1) // 2, config.components)
        self.dropout = SampleDropout(config.dropout)
        self.head = nn.Linear(self.project.num_components, config.feature_size)

    def covariances(self, eeg: Tensor, mean: Tensor, whitening: Tensor) -> Tensor:
        """Shrunk covariances of the spatial components, float64: positive definite."""
        x = ((self.spatial @ whitening) @ (eeg - mean[:, None])).double()
        if self.evoked:
            x = torch.cat([self.template.double().expand(len(x), -1, -1), x], dim=1)
        return shrunk_covariance(x)

    def tangent(self, covariances: Tensor) -> Tensor:
        root = self.inverse_root.double()
        return upper(matrix_function(root @ covariances @ root, torch.log)).float()

    def forward(self, eeg: Tensor, mean: Tensor, whitening: Tensor) -> Tensor:
        tangent = self.tangent(self.covariances(eeg, mean, whitening))
        features: Tensor = self.head(self.dropout(self.project(tangent)))
        return features

    @torch.no_grad()
    def fit(self, segments: Iterable[Tensor], mean: Tensor, whitening: Tensor) -> None:
        # Whitened channels of all segments: as many as fit_encoder_normalisation takes, 512.
        whitened = torch.cat([whitening @ (eeg - mean[:, None]) for eeg in segments])
        self.spatial.copy_(spatial_components(whitened, whitening, len(self.spatial)))
        if self.evoked:
            self.template.copy_(self.spatial @ whitened.mean(0))
        chunks = whitened.split(64)
        identity = torch.eye(len(whitening), device=whitening.device)
        covariances = torch.cat([self.covariances(part, torch.zeros_like(mean), identity) for part in chunks])
        self.inverse_root.copy_(matrix_function(riemannian_mean(covariances), torch.rsqrt))
        self.project.fit(self.tangent(covariances))


def spatial_components(whitened: Tensor, whitening: Tensor, number: int) -> Tensor:
    """[number, C]: takes whitened channels [N, C, T] to the first principal components of the channels as they were
    before whitening, each scaled to unit variance: whitened channels all have the same variance, and tell no order.
    """
    values = whitened.transpose(0, 1).flatten(1).double()
    unwhiten = torch.linalg.pinv(whitening.double())
    covariance = unwhiten @ (values @ values.T / values.shape[1]) @ unwhiten.T
    std = covariance.diagonal().clamp_min(0).sqrt()
    std = torch.where(std > 1e-6 * std.max().clamp_min(1e-12), std, torch.ones_like(std))
    variances, directions = torch.linalg.eigh(covariance / torch.outer(std, std))
    chosen = directions[:, -number:].flip(1)
    scale = variances[-number:].flip(0).clamp_min(1e-6).rsqrt()
    chosen = chosen * chosen.gather(0, chosen.abs().argmax(dim=0, keepdim=True)).sign()
    return (scale[:, None] * chosen.T / std) @ unwhiten


def shrunk_covariance(x: Tensor) -> Tensor:
    """Covariances [B, K, K] of x [B, K, T], drawn towards a multiple of the identity by the oracle approximating
    shrinkage (Chen, Wiesel, Eldar, Hero 2010, eq. 23 as in scikit-learn's OAS).
    """
    size, n_samples = x.shape[1:]
    x = x - x.mean(2, keepdim=True)
    covariance = x @ x.transpose(1, 2) / n_samples
    level = covariance.diagonal(dim1=1, dim2=2).mean(1)
    power = (covariance**2).mean((1, 2))
    rest = (n_samples + 1) * (power - level**2 / size)
    shrinkage = torch.where(rest > 0, (power + level**2) / rest.clamp_min(1e-30), torch.ones_like(rest)).clamp(max=1.0)
    # A flat segment has no covariance; the floor keeps its logarithm finite.
    target = (shrinkage * level).clamp_min(1e-9)[:, None, None] * torch.eye(size, dtype=x.dtype, device=x.device)
    return (1 - shrinkage)[:, None, None] * covariance + target


def matrix_function(matrices: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """`function` of the eigenvalues of symmetric positive definite matrices [..., K, K]."""
    values, vectors = torch.linalg.eigh(matrices)
    return vectors @ torch.diag_embed(function(values.clamp_min(1e-12))) @ vectors.mT


def riemannian_mean(matrices: Tensor) -> Tensor:
    """The matrix with the least sum of squared affine-invariant distances to `matrices` [N, K, K] (Moakher 2005), by
    steps along the mean tangent vector.
    """
    mean = matrices.mean(0)
    for _ in range(MAX_MEAN_STEPS):
        root, inverse = matrix_function(mean, torch.sqrt), matrix_function(mean, torch.rsqrt)
        step = matrix_function(inverse @ matrices @ inverse, torch.log).mean(0)
        mean = root @ _exponential(step) @ root
        if step.norm() < MEAN_TOLERANCE:
            break
    return mean


def _exponential(matrix: Tensor) -> Tensor:
    exponential: Tensor = torch.linalg.matrix_exp(matrix)
    return exponential


def upper(matrices: Tensor) -> Tensor:
    """The upper triangles [B, K (K + 1) / 2] of symmetric matrices, off the diagonal times √2: their norms are kept."""
    rows, columns = torch.triu_indices(*matrices.shape[1:], device=matrices.device)
    weights = torch.where(rows == columns, 1.0, 2.0**0.5)
    return matrices[:, rows, columns] * weights
