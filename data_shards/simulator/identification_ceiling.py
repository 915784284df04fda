"""The best identification of the stimulus, not only of its class, that any decoder can reach on a simulated study.

A decoder is given one segment and S stimuli, with their classes and layout features, and ranks them. As in ceiling.py
the best decoder is bounded from both sides, here with the stimuli in place of the classes:

- From above: a decoder that knows all but the stimulus and the variability of the class and layout sources sees the
  generalised least-squares estimate â ~ N(m_i, Σ + J⁻¹) of their amplitudes, m_i those of stimulus i without
  variability. Bayes' rule on it is a linear discriminant, and its hits are counted by Monte Carlo.
- From below: `ceiling.Decoder` with the stimuli as hypotheses, on the samples that a data set holds.
"""

from dataclasses import dataclass

import numpy as np

from neuroimagen.data_shards.common.blas import single_blas_thread
from neuroimagen.data_shards.common.progress import track
from neuroimagen.data_shards.simulator.ceiling import Decoder, Hypotheses, source_information
from neuroimagen.data_shards.simulator.forward_model import LAYOUT_GAIN, ForwardModel
from neuroimagen.data_shards.simulator.head_model import NUM_LAYOUT
from neuroimagen.data_shards.simulator.random_streams import STREAM_IDENTIFICATION, random_stream


@dataclass(frozen=True, kw_only=True)
class IdentificationFigures:
    """How well the stimulus is found among S: means over segments and subjects."""

    top1: float
    """Share of segments whose stimulus ranks first."""
    top5: float
    """Share of segments whose stimulus is among the first five."""
    two_way: float
    """Share of the other stimuli that rank below the true one."""


@dataclass(frozen=True, kw_only=True)
class IdentificationCeiling:
    """Bounds of the best identification of the stimulus from one segment."""

    bound: IdentificationFigures
    """No decoder exceeds these in expectation."""
    achievable: IdentificationFigures
    """Of the decoder with the true parameters."""
    num_stimuli: int
    standard_error: float
    """Largest Monte Carlo standard error of a share."""
    num_draws: int


def stimulus_hypotheses(model: ForwardModel, labels: np.ndarray, layouts: np.ndarray) -> Hypotheses:
    """Stimuli of the given classes [S] and layout features [S, 9]: means of their amplitudes, and the variability."""
    n = model.num_class_sources
    layout = slice(n, n + NUM_LAYOUT)
    evoked_mean, covariance = model.amplitude_moments(0)
    means = np.tile(evoked_mean, (len(labels), 1))
    means[:, :n] = model.class_responses[labels]
    means[:, layout] = LAYOUT_GAIN * layouts
    covariance = covariance.copy()
    covariance[layout, layout] = (LAYOUT_GAIN * model.config.layout_variability) ** 2 * np.eye(NUM_LAYOUT)
    return Hypotheses(means=means, covariance=covariance)


def identification_figures(scores: np.ndarray, true: np.ndarray) -> np.ndarray:
    """[n, 3]: top-1, top-5 and two-way of each segment, from scores [n, S] and the true stimuli [n]."""
    above = (scores > scores[np.arange(len(true)), true][:, None]).sum(axis=1)
    others = max(1, scores.shape[1] - 1)
    return np.stack([above < 1, above < 5, 1 - above / others], axis=1).astype(np.float64)


def measure_identification_ceiling(
    model: ForwardModel, labels: np.ndarray, layouts: np.ndarray, *, num_draws: int = 20_000
) -> IdentificationCeiling:
    """Bound the best identification among stimuli with these classes [S] and layout features [S, 9] by Monte Carlo.

    `num_draws`: trials of all subjects for the upper bound; the decoder gets a fifth.
    """
    hypotheses = stimulus_hypotheses(model, labels, layouts)
    per_subject = -(-num_draws // model.config.num_subjects)
    bounds, achieved = [], []
    with single_blas_thread():
        subjects = range(model.config.num_subjects)
        for subject in track(subjects, total=len(subjects), desc="ceiling of identification", unit="subject"):
            rng = random_stream(model.config.seed, STREAM_IDENTIFICATION, subject)
            bounds.append(_bound(model, subject, hypotheses, rng, per_subject))
            achieved.append(_achieved(model, subject, hypotheses, labels, layouts, rng, -(-per_subject // 5)))
    bound, achievable = np.concatenate(bounds).mean(axis=0), np.concatenate(achieved).mean(axis=0)
    share = float(np.clip(achievable[0], 0.05, 0.95))
    return IdentificationCeiling(
        bound=_figures(bound),
        # Where both nearly coincide, sampling error may put the decoder's estimate above the bound.
        achievable=_figures(np.minimum(achievable, bound)),
        num_stimuli=len(labels),
        standard_error=float(np.sqrt(share * (1 - share) / (num_draws / 5))),
        num_draws=num_draws,
    )


def _bound(
    model: ForwardModel, subject: int, hypotheses: Hypotheses, rng: np.random.Generator, num_draws: int
) -> np.ndarray:
    n = model.num_class_sources + NUM_LAYOUT
    means = hypotheses.means[:, :n]
    covariance = hypotheses.covariance[:n, :n] + np.linalg.inv(source_information(model, subject, n))
    true = rng.integers(len(means), size=num_draws)
    estimates = means[true] + rng.standard_normal((num_draws, n)) @ np.linalg.cholesky(covariance).T
    weights = np.linalg.solve(covariance, means.T)
    return identification_figures(estimates @ weights - 0.5 * np.sum(means.T * weights, axis=0), true)


def _achieved(
    model: ForwardModel,
    subject: int,
    hypotheses: Hypotheses,
    labels: np.ndarray,
    layouts: np.ndarray,
    rng: np.random.Generator,
    num_draws: int,
) -> np.ndarray:
    decoder = Decoder(model, subject, hypotheses)
    true = rng.integers(len(labels), size=num_draws)
    features = decoder.projected(rng, model.amplitudes(rng, labels=labels[true], layouts=layouts[true]))
    return identification_figures(decoder.log_posterior(features), true)


def _figures(values: np.ndarray) -> IdentificationFigures:
    top1, top5, two_way = map(float, values)
    return IdentificationFigures(top1=top1, top5=top5, two_way=two_way)
