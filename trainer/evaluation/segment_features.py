"""Features of a segment for linear decoders: bin means of the window, its slow part, principal components.

Legend: N segments, C channels, T samples, B bins of time.
"""

import itertools

import numpy as np

from neuroimagen.data_shards.common.arrays import Floats
from neuroimagen.data_shards.common.blas import single_blas_thread

BIN_MS = 40.0
NUM_COMPONENTS = 100


def num_bins(n_samples: int, sfreq: float) -> int:
    """Number of bins of about 40 ms in a segment."""
    return max(1, round(n_samples / sfreq * 1000 / BIN_MS))


def remove_trend(eeg: Floats) -> tuple[Floats, Floats, Floats]:
    """Least-squares line of each channel: mean [N, C], slope per window [N, C], residual [N, C, T]; eeg [N, C, T].

    The result has the same bits whatever the number of threads.
    """
    time = np.linspace(-0.5, 0.5, eeg.shape[2], dtype=np.float32)
    mean = eeg.mean(axis=2)
    with single_blas_thread():
        slope = eeg @ time / (time @ time)
    return mean, slope, eeg - mean[:, :, None] - slope[:, :, None] * time


def slow_features(mean: Floats, slope: Floats, residual: Floats) -> Floats:
    """Mean, slope and log amplitude of each channel: [N, C], [N, C], [N, C, T] → [N, 3 C]."""
    amplitude = np.maximum(residual.std(axis=2), 1e-12)
    return np.concatenate([mean, slope, np.log(amplitude)], axis=1)


def bin_means(eeg: Floats, num_bins: int) -> Floats:
    """Means over `num_bins` nearly equal intervals of time, flattened: [N, C, T] → [N, C · num_bins]."""
    edges = np.linspace(0, eeg.shape[2], num_bins + 1).round().astype(int)
    means = [eeg[:, :, start:stop].mean(axis=2) for start, stop in itertools.pairwise(edges)]
    return np.stack(means, axis=2).reshape(len(eeg), -1)


def principal_components(train: Floats, test: Floats, *, num_components: int = NUM_COMPONENTS) -> tuple[Floats, Floats]:
    """The first principal components of standardised features, fitted on `train` [n, D]: float64 [n, K] each.

    They are computed from the eigenvectors of the Gram matrix [n, n] or the covariance [D, D], whichever is smaller.
    """
    mean, std = train.mean(axis=0), train.std(axis=0)
    std = np.where(std > 0, std, 1)
    train, test = ((x - mean) / std for x in (train.astype(np.float64), test.astype(np.float64)))
    n, size = train.shape
    gram = train @ train.T if n <= size else train.T @ train
    values, vectors = np.linalg.eigh(gram)
    kept = np.flatnonzero(values > 1e-9 * values[-1])[::-1][:num_components]
    directions = train.T @ (vectors[:, kept] / np.sqrt(values[kept])) if n <= size else vectors[:, kept]
    return train @ directions, test @ directions
