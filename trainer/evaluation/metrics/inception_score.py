"""Inception Score: how certain and how varied the classes of a set of images are; it ignores the stimuli."""

import numpy as np

from neuroimagen.data_shards.common.arrays import Floats
from neuroimagen.trainer.evaluation.intervals import Estimate
from neuroimagen.trainer.evaluation.metrics.metric import SetMetric
from neuroimagen.trainer.evaluation.scoring.comparison import Comparison


def inception_score(probabilities: Floats, *, num_splits: int = 10, seed: int = 0) -> tuple[float, float]:
    """Mean and deviation over splits of exp(mean KL(p ‖ mean p)) (Salimans et al. 2016); probabilities [N, M]."""
    if not 1 <= num_splits <= len(probabilities):
        raise ValueError(f"cannot make {num_splits} splits of {len(probabilities)} images")
    order = np.random.default_rng(seed).permutation(len(probabilities))
    scores = []
    for split in np.array_split(np.asarray(probabilities, dtype=np.float64)[order], num_splits):
        marginal = split.mean(axis=0, keepdims=True)
        divergence = np.where(split > 0, split * np.log(np.where(split > 0, split, 1) / marginal), 0).sum(axis=1)
        scores.append(np.exp(divergence.mean()))
    return float(np.mean(scores)), float(np.std(scores, ddof=1)) if num_splits > 1 else 0.0


def _compute(comparison: Comparison) -> Estimate | None:
    scores, config = comparison.class_scores, comparison.scoring.config
    n = len(scores)
    if n < 2 * config.inception_splits:
        return None
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    mean, deviation = inception_score(
        shifted / shifted.sum(axis=1, keepdims=True), num_splits=config.inception_splits, seed=config.seed
    )
    if config.inception_splits == 1:
        return Estimate(value=mean, low=None, high=None, n=n)
    margin = 1.96 * deviation / np.sqrt(config.inception_splits)
    return Estimate(value=mean, low=mean - margin, high=mean + margin, n=n)


INCEPTION_SCORE = SetMetric(
    needs="class scores",
    title="IS",
    definition="exp of the mean KL divergence of the class probabilities ({classifier}) from their mean; mean over "
    "{splits} splits of {n_images} pictures, interval 1.96 standard errors over the splits; ignores the stimulus",
    bounds=(1.0, float("inf")),
    compute=_compute,
)
