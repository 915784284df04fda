"""Brings the covariance of a new subject's EEG to that of the training split, without labels.

Euclidean alignment (He, Wu 2020) whitens each subject by its own mean covariance. An encoder that is trained already
expects the covariance of its training split, so the new subject's is brought to that one, by the linear map that
changes the EEG least: the optimal transport between two Gaussians, A = S^(-1/2) (S^(1/2) T S^(1/2))^(1/2) S^(-1/2) with
A S A = T. Where T is the identity, A = S^(-1/2), as in Euclidean alignment; where S is T, A is the identity.

Legend: C channels, T samples. Covariances are of whitened channels, as the encoder's trunk reads them.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder

RIDGE = 0.01
"""Part of the mean training variance that both covariances get on the diagonal: directions that neither recording has
(those that a reference takes away) stay as they are."""


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Mean and covariance over the samples of segments, float64, and how sure the covariance is."""

    mean: Tensor
    """Of the channels as recorded, [C]."""
    covariance: Tensor
    """Of the whitened channels, [C, C]."""
    error: float
    """Estimated squared error of the covariance (Frobenius norm), from the differences between segments; infinite for
    a single segment."""


def moments(segments: Iterable[Tensor], whitening: Tensor) -> Moments:
    """Moments of batches of segments, each [B, C, T] as recorded, whose channels `whitening` [C, C] whitens.

    Samples within a segment are similar, so the error counts whole segments: Σ ‖S_i − S‖² / (n (n − 1)).
    """
    batches = [batch.detach().cpu().double() for batch in segments]
    number = sum(len(batch) for batch in batches)
    if not number:
        raise ValueError("no segments to estimate a covariance from")
    n_samples = batches[0].shape[2]
    mean = torch.stack([batch.sum(dim=(0, 2)) for batch in batches]).sum(dim=0) / (number * n_samples)
    total = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    squares = 0.0
    for batch in batches:
        centred = whitening.detach().cpu().double() @ (batch - mean[:, None])
        each = centred @ centred.mT / n_samples  # [B, C, C]
        total += each.sum(dim=0)
        squares += float((each**2).sum())
    covariance = total / number
    spread = max(squares - number * float((covariance**2).sum()), 0.0)
    return Moments(
        mean=mean,
        covariance=covariance,
        error=spread / (number * (number - 1)) if number > 1 else float("inf"),
    )


def shrunk(found: Moments, target: Tensor) -> Tensor:
    """The covariance, drawn towards `target` [C, C] as far as its error demands (Ledoit, Wolf 2004).

    The part of the target is error / ‖S − target‖², at most 1: a few seconds of EEG change nothing.
    """
    distance = float(((found.covariance - target) ** 2).sum())
    part = min(1.0, found.error / distance) if distance > 0 else 1.0
    return part * target + (1 - part) * found.covariance


def transport(covariance: Tensor, target: Tensor) -> Tensor:
    """The symmetric positive definite A with A · covariance · A = target, all [C, C], float64."""
    root = _power(covariance, 0.5)
    inverse = _power(covariance, -0.5)
    return inverse @ _power(root @ target @ root, 0.5) @ inverse


def _power(matrix: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    # Rounding may leave a value of a positive definite matrix at or below zero.
    values = values.clamp_min(values[-1] * 1e-12)
    return vectors @ torch.diag(values**exponent) @ vectors.mT


@torch.no_grad()
def align_covariance(encoder: EEGEncoder, trained: Moments, subject: Moments) -> None:
    """Change the encoder's normalisation so that it reads a new subject's EEG with the moments of its training split.

    Both moments are by the encoder's own whitening W. The subject's mean takes the place of the channels' mean, and
    A · W that of W.
    """
    target = trained.covariance
    ridge = RIDGE * float(target.diagonal().mean()) * torch.eye(len(target), dtype=torch.float64)
    change = transport(shrunk(subject, target) + ridge, target + ridge)
    encoder.channel_mean.copy_(subject.mean)
    encoder.whitening.copy_(change @ encoder.whitening.detach().cpu().double())
