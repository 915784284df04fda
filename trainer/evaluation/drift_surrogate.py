"""Drift surrogates: recordings with the slow drift of the real ones and no response to the stimulus.

Where classes were shown in blocks, the level of a block mixes the response to its class with the drift since the last
block. Inside a block the class does not change, so every change there is drift. The model of drift is fitted to those
changes only; continued over the session, it tells how far drift alone moves the blocks apart.

Legend: N segments, C channels, T samples, D slow features (mean, slope and log amplitude of each channel: 3 C), K
directions of drift, M increments (one per block).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from neuroimagen.data_shards.common.arrays import Floats, Integers
from neuroimagen.data_shards.common.blas import single_blas_thread
from neuroimagen.data_shards.common.progress import track
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.format.schema import SegmentRecord, StimulusRecord
from neuroimagen.data_shards.writing.writer import DatasetWriter
from neuroimagen.trainer.evaluation.segment_features import bin_means, remove_trend

ORIGINAL_KEY = "drift_surrogate_of"
"""Key of a drift surrogate's provenance under which the digest of the original data set is written."""
_FORMER_KEY = "phantom_of"  # of data sets that earlier versions wrote
LEAST_SEGMENTS = 4
"""Least number of segments in a block: a line is fitted to them, and the residuals must have degrees of freedom."""
NUM_SHUFFLES = 20
_MAX_MEMORY = 0.95
_DIAGONAL_SHARE = 0.05


@dataclass(frozen=True, kw_only=True)
class Sessions:
    """When each segment was recorded: arrays with one entry per segment, int64 [N]; −1 where it is unknown."""

    subjects: Integers
    blocks: Integers
    orders: Integers

    def by_block(self) -> Iterator[Integers]:
        """The segments of each block of each subject, as indices in the order of recording."""
        for subject in np.unique(self.subjects):
            for block in np.unique(self.blocks[self.subjects == subject]):
                rows = np.flatnonzero((self.subjects == subject) & (self.blocks == block))
                yield rows[np.argsort(self.orders[rows], kind="stable")]

    @property
    def is_known(self) -> bool:
        """Whether every segment has a block and an order, and blocks are long enough to fit a line to."""
        if not len(self.blocks) or (self.blocks < 0).any() or (self.orders < 0).any():
            return False
        sizes = [len(rows) for rows in self.by_block()]
        return min(sizes) >= LEAST_SEGMENTS and len(sizes) > len(np.unique(self.subjects))


@dataclass(frozen=True, kw_only=True)
class DriftModel:
    """Drift as an autoregressive walk from block to block, linear in between, in K directions of the slow features."""

    loadings: Floats
    """What a step of unit variance adds to the slow features, [K, D]; K is 0 where no drift was found."""
    memory: float
    """Correlation of the walk between neighbouring blocks."""
    residuals: Floats
    """Slow features of each segment minus its block's line, [N, D]: everything that is not drift."""
    levels: dict[int, Floats]
    """Each subject's mean of the slow features, [D]."""
    scales: dict[int, Floats]
    """Each subject's standard deviation of the slow features, [D]: the unit of loadings and residuals."""

    @property
    def num_directions(self) -> int:
        return len(self.loadings)


def fit_drift(features: Floats, sessions: Sessions, *, seed: int = 0) -> DriftModel:
    """Fit the model of drift to the changes inside blocks; features [N, D].

    Each block gives one increment, the change along its least-squares line. The variance of the increments beyond that
    with the order inside the blocks shuffled (parallel analysis, direction by direction) is drift. Increments of
    neighbouring blocks of an autoregressive walk correlate by −(1 − memory)/2, which gives its memory.
    """
    with single_blas_thread():
        return _fit_drift(features, sessions, seed)


def _fit_drift(features: Floats, sessions: Sessions, seed: int) -> DriftModel:
    standard = np.asarray(features, dtype=np.float64).copy()
    levels: dict[int, Floats] = {}
    scales: dict[int, Floats] = {}
    for subject in np.unique(sessions.subjects).tolist():
        own = sessions.subjects == subject
        spread = standard[own].std(axis=0)
        levels[subject], scales[subject] = standard[own].mean(axis=0), np.where(spread > 0, spread, 1.0)
        standard[own] = (standard[own] - levels[subject]) / scales[subject]
    increments, residuals, whitening = _increments(standard, sessions)
    _, singular, directions = np.linalg.svd(increments / np.sqrt(len(increments)), full_matrices=False)
    rng = np.random.default_rng(seed)
    shuffled = np.stack([_shuffled_spectrum(standard, sessions, rng) for _ in range(NUM_SHUFFLES)])
    spectrum, beyond = singular**2, singular**2 > shuffled.max(axis=0)
    num_directions = len(beyond) if beyond.all() else int(np.argmin(beyond))
    variance = (spectrum - shuffled.mean(axis=0))[:num_directions]  # of an increment, in each direction
    directions = directions[:num_directions]
    memory = _memory(increments @ directions.T, variance, sessions)
    loadings = np.sqrt(variance / (2 * (1 - memory)))[:, None] * (directions @ np.linalg.inv(whitening))
    return DriftModel(loadings=loadings, memory=memory, residuals=residuals, levels=levels, scales=scales)


def _increments(features: Floats, sessions: Sessions) -> tuple[Floats, Floats, Floats]:
    """Each block's change along its line, in units of its own noise [M, D]; residuals [N, D]; the whitening [D, D].

    The noise of a slope depends on the number of segments in its block; divided by it, the increments of blocks of all
    lengths have the same scale.
    """
    residuals = np.empty_like(features)
    changes, precisions = [], []
    freedom = 0
    for rows in sessions.by_block():
        time = sessions.orders[rows].astype(np.float64)
        time = (time - time.mean()) / (np.ptp(time) + 1)
        slope = time @ features[rows] / (time @ time)
        residuals[rows] = features[rows] - features[rows].mean(axis=0) - time[:, None] * slope
        changes.append(slope)
        precisions.append(np.sqrt(time @ time))
        freedom += len(rows) - 2
    covariance = residuals.T @ residuals / freedom
    covariance = (1 - _DIAGONAL_SHARE) * covariance + _DIAGONAL_SHARE * np.diag(np.diag(covariance))
    values, vectors = np.linalg.eigh(covariance)
    whitening = vectors / np.sqrt(np.maximum(values, 1e-12 * values[-1]))
    scaled = np.array(changes) * np.array(precisions)[:, None]
    # The whitening is inverted for a block of the mean precision.
    return scaled @ whitening, residuals * np.sqrt(len(residuals) / freedom), whitening * np.mean(precisions)


def _shuffled_spectrum(features: Floats, sessions: Sessions, rng: np.random.Generator) -> Floats:
    """Spectrum of the increments with the order inside each block shuffled: that of noise alone."""
    orders = sessions.orders.copy()
    for rows in sessions.by_block():
        orders[rows] = rng.permutation(orders[rows])
    increments, _, _ = _increments(features, replace(sessions, orders=orders))
    return np.linalg.svd(increments / np.sqrt(len(increments)), compute_uv=False) ** 2


def _memory(increments: Floats, variance: Floats, sessions: Sessions) -> float:
    """Correlation of the walk between blocks, from the covariance of neighbouring increments [M, K]."""
    if not len(variance):
        return 0.0
    owners = np.array([sessions.subjects[rows[0]] for rows in sessions.by_block()])
    neighbours = owners[1:] == owners[:-1]
    if not neighbours.any():
        return 0.0
    covariance = (increments[1:] * increments[:-1])[neighbours].mean(axis=0).sum()
    return float(np.clip(1 + 2 * covariance / variance.sum(), 0.0, _MAX_MEMORY))


def draw_drift_surrogate(model: DriftModel, sessions: Sessions, rng: np.random.Generator) -> tuple[Floats, Integers]:
    """Slow features of a drift surrogate [N, D], and the segment [N] whose fast part each place of the session gets.

    Segments change places at random within their subject, so a place is independent of the stimulus shown there. A
    generator in the same state gives the same bits, whatever the number of threads.
    """
    features = np.empty_like(model.residuals)
    sources = np.empty(len(features), dtype=np.int64)
    for subject in np.unique(sessions.subjects).tolist():
        own = np.flatnonzero(sessions.subjects == subject)
        sources[own] = rng.permutation(own)
        blocks, block = np.unique(sessions.blocks[own], return_inverse=True)
        walk = rng.standard_normal((len(blocks) + 1, model.num_directions))
        for step in range(len(blocks)):
            walk[step + 1] = model.memory * walk[step] + np.sqrt(1 - model.memory**2) * walk[step + 1]
        share = ((sessions.orders[own] + 0.5) / (sessions.orders[own].max() + 1))[:, None]
        between = (1 - share) * walk[block] + share * walk[block + 1]
        # A mean of two nodes varies less than a node; dividing by its standard deviation makes the variance constant.
        between /= np.sqrt((1 - share) ** 2 + share**2 + 2 * model.memory * share * (1 - share))
        with single_blas_thread():
            drift = between @ model.loadings
        features[own] = model.levels[subject] + model.scales[subject] * (drift + model.residuals[sources[own]])
    return features, sources


def drift_surrogate_windows(
    features: Floats, sources: Integers, slow: Floats, detrended: Floats, n_samples: int
) -> Floats:
    """Bin means of the segments of a drift surrogate, [N, C · B].

    features [N, D] and sources [N] are those of `draw_drift_surrogate`; slow [N, D] and detrended [N, C · B] are the
    recordings' own slow features and detrended bins.
    """
    n_channels = slow.shape[1] // 3
    num_bins = detrended.shape[1] // n_channels
    line = np.linspace(-0.5, 0.5, n_samples)
    times = bin_means(line[None, None], num_bins)[0]
    mean, slope, gain = _mean_slope_gain(features, slow[sources])
    fast = detrended[sources].reshape(len(sources), n_channels, num_bins) * gain[:, :, None]
    return (fast + mean[:, :, None] + slope[:, :, None] * times).reshape(len(sources), -1)


def _mean_slope_gain(features: Floats, own: Floats) -> tuple[Floats, Floats, Floats]:
    """Mean, slope and gain of each channel, [N, C] each: the gain maps the source's amplitude to the surrogate's."""
    mean, slope, amplitude = np.split(features, 3, axis=1)
    return mean, slope, np.exp(np.clip(amplitude - np.split(own, 3, axis=1)[2], -3, 3))


def write_drift_surrogate(
    dataset: Dataset, rows: Integers, slow: Floats, model: DriftModel, sessions: Sessions, out: Path, *, seed: int
) -> None:
    """Write a data set with the stimuli, split and blocks of `dataset` and the EEG of a drift surrogate.

    `rows` [N] of its index are written; slow [N, D] are their slow features. The latents are the original's, because
    they belong to the stimuli.
    """
    metadata, stimuli = dataset.metadata, dataset.stimuli
    features, sources = draw_drift_surrogate(model, sessions, np.random.default_rng(seed))
    mean, slope, gain = _mean_slope_gain(features, slow[sources])
    time = np.linspace(-0.5, 0.5, metadata.n_samples, dtype=np.float32)
    described = replace(
        metadata,
        name=f"{metadata.name}-drift-surrogate",
        provenance={ORIGINAL_KEY: dataset.digest, "seed": seed, "study": metadata.provenance.get("study", {})},
    )
    with DatasetWriter(out, described) as writer:
        for number, key in enumerate(stimuli.keys):
            writer.add_stimulus(
                StimulusRecord(
                    key=key,
                    image=bytes(stimuli.encoded(number)),
                    extension=stimuli.extensions[number],
                    label=int(stimuli.labels[number]),
                    caption=stimuli.captions[number],
                    detailed_caption=stimuli.detailed_captions[number],
                )
            )
        for place in track(np.argsort(rows), total=len(rows), desc="writing the drift surrogate", unit="segment"):
            row = int(rows[place])
            fast = remove_trend(dataset.eeg(int(rows[sources[place]]))[None])[2][0]
            eeg = fast * gain[place][:, None] + mean[place][:, None] + slope[place][:, None] * time
            fields = {**dataset.segment_fields(row), "scale": None}
            writer.add_segment(SegmentRecord(eeg=eeg.astype(np.float32), **fields))
    latents = dataset.folder / "latents"
    if latents.is_dir():
        (out / "latents").symlink_to(latents.resolve(), target_is_directory=True)


def original_of(surrogate: Dataset) -> str | None:
    """Digest of the data set that a drift surrogate was made from; None where `surrogate` is none."""
    recorded = surrogate.metadata.provenance
    return recorded.get(ORIGINAL_KEY, recorded.get(_FORMER_KEY))
