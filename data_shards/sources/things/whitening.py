"""Multivariate noise normalisation (Guggenmos et al. 2018): channels are decorrelated by the covariance of their noise.

    x' = Σ^(−1/2) x        Σ = mean over images of the mean over their epochs of the epoch's shrunk covariance

An epoch's covariance is over its samples: channels are standardised, the covariance of the standardised channels is
shrunk by the constant of Ledoit and Wolf (2004), and the scales are put back. Σ is of training epochs only, and of one
session, to whose training and test epochs it is applied.
"""

from collections.abc import Iterable

import numpy as np

from neuroimagen.data_shards.common.blas import single_blas_thread
from neuroimagen.data_shards.common.errors import UserError


def shrunk_covariance(epoch: np.ndarray) -> np.ndarray:
    """float64 [C, C] of an epoch [C, T]; 0 for a channel that does not vary."""
    from sklearn.covariance import ledoit_wolf

    scale = epoch.std(axis=1)
    standardised = (epoch - epoch.mean(axis=1, keepdims=True)) / np.where(scale == 0, 1.0, scale)[:, None]
    covariance, _ = ledoit_wolf(standardised.T, assume_centered=False)
    return np.asarray(scale[:, None] * covariance * scale[None, :])


def noise_covariance(epochs: Iterable[tuple[int, np.ndarray]], epochs_of_image: dict[int, int]) -> np.ndarray:
    """Σ, float64 [C, C], of epochs [C, T] that come one by one, each with the number of its image.

    epochs_of_image: how many epochs each image has, so that every image counts the same.
    """
    total: np.ndarray | None = None
    with single_blas_thread():
        for image, epoch in epochs:
            share = shrunk_covariance(epoch) / (epochs_of_image[image] * len(epochs_of_image))
            total = share if total is None else total + share
    if total is None:
        raise UserError("whitening needs training epochs, and there are none.")
    return total


def whitening_matrix(covariance: np.ndarray, channel_names: tuple[str, ...], *, where: str) -> np.ndarray:
    """Σ^(−1/2), symmetric. Raises UserError naming channels without variance, and if Σ cannot be inverted."""
    if (flat := np.flatnonzero(np.diag(covariance) <= 0)).size:
        raise UserError(
            f"{where}: channels {', '.join(channel_names[channel] for channel in flat)} never vary, so the EEG cannot "
            "be whitened. Use --whitening none."
        )
    with single_blas_thread():
        values, vectors = np.linalg.eigh(covariance)
        if values[0] <= values[-1] * 1e-12:
            raise UserError(
                f"{where}: the channels depend on each other linearly (an average reference, or interpolation), so the "
                "EEG cannot be whitened. Use --whitening none."
            )
        return np.asarray((vectors / np.sqrt(values)) @ vectors.T)
