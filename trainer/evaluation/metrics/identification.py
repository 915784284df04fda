"""Identification and retrieval: whether an image is more similar to its own stimulus than to others of the split."""

import numpy as np
from numpy.typing import NDArray

from neuroimagen.data_shards.common.arrays import Floats, Integers
from neuroimagen.trainer.evaluation.metrics.metric import IMAGES, ImageMetric
from neuroimagen.trainer.evaluation.scoring.comparison import Comparison
from neuroimagen.trainer.evaluation.scoring.correlation import correlation_matrix
from neuroimagen.trainer.evaluation.scoring.scoring import Scoring


def two_way_identification(
    similarity: Floats, targets: Integers, *, allowed: NDArray[np.bool_] | None = None, tie: float = 0.5
) -> Floats:
    """Share of the other candidates that are less similar than the true one; ties count `tie`, one half by default.

    similarity [N, S]; targets [N], the true candidate's column; allowed [N, S] limits the candidates (the true one is
    always among them); float64 [N]. With S candidates the divisor is S − 1 exactly. NaN if there is no other candidate.
    """
    below, ties, others = _compare_with_target(similarity, targets, allowed)
    with np.errstate(invalid="ignore"):
        return (below + tie * ties) / np.where(others > 0, others, np.nan)


def retrieval_accuracy(
    similarity: Floats, targets: Integers, *, top_k: int = 1, allowed: NDArray[np.bool_] | None = None
) -> Floats:
    """1 if fewer than `top_k` others are at least as similar as the true candidate, else 0; NaN without others. [N]."""
    below, _, others = _compare_with_target(similarity, targets, allowed)
    return np.where(others > 0, (others - below < top_k).astype(np.float64), np.nan)


def _compare_with_target(
    similarity: Floats, targets: Integers, allowed: NDArray[np.bool_] | None
) -> tuple[Integers, Integers, Integers]:
    """Number of other candidates that are less similar than the true one, that are equally similar, and of all: [N]."""
    rows = np.arange(len(similarity))
    is_other = np.ones(similarity.shape, dtype=bool) if allowed is None else allowed.copy()
    is_other[rows, targets] = False
    true_similarity = similarity[rows, targets][:, None]
    below = ((similarity < true_similarity) & is_other).sum(axis=1)
    ties = ((similarity == true_similarity) & is_other).sum(axis=1)
    return below, ties, is_other.sum(axis=1)


# ----------------------------------------------------------------------------------------- two-way, among all stimuli


def _half(scoring: Scoring) -> float:
    return 0.5


def _clip(comparison: Comparison) -> Floats:
    return two_way_identification(comparison.similarity_in_clip, comparison.columns)


def _classifier(comparison: Comparison) -> Floats:
    return two_way_identification(comparison.similarity_in_classifier, comparison.columns)


def _clip_early(comparison: Comparison) -> Floats:
    return _in_layer(comparison, comparison.clip.early, comparison.scoring.references.clip.early)


def _clip_late(comparison: Comparison) -> Floats:
    return _in_layer(comparison, comparison.clip.late, comparison.scoring.references.clip.late)


def _classifier_early(comparison: Comparison) -> Floats:
    return _in_layer(comparison, comparison.classifier.early, comparison.classifier_of_stimuli.early)


def _classifier_late(comparison: Comparison) -> Floats:
    return _in_layer(comparison, comparison.classifier.late, comparison.classifier_of_stimuli.late)


def _in_layer(comparison: Comparison, layer: Floats, references: Floats) -> Floats:
    return two_way_identification(correlation_matrix(layer, references), comparison.columns)


def _pixels(comparison: Comparison) -> Floats:
    return two_way_identification(comparison.similarity_in_pixels, comparison.columns)


TWO_WAY_CLIP = ImageMetric(
    title="2-way CLIP",
    definition="two-way identification: share of the other {n_other_stimuli} test stimuli to which the picture is "
    "less similar than to its own, ties half; Pearson correlation of CLIP image embeddings ({clip})",
    scale="share",
    groups=IMAGES | {"eeg", "reference", "difference"},
    in_main_table=True,
    ranks_examples=True,
    searchable=True,
    chance=_half,
    compute=_clip,
)
TWO_WAY_CLASSIFIER = ImageMetric(
    needs="classifier features",
    title="2-way classifier",
    definition="two-way identification among {n_stimuli} test stimuli, divided by {n_other_stimuli} exactly; Pearson "
    "correlation of the classifier's penultimate features ({classifier}, {feature_dimension}-d)",
    scale="share",
    groups=IMAGES | {"reference"},
    chance=_half,
    compute=_classifier,
)
TWO_WAY_CLIP_EARLY = ImageMetric(
    title="2-way CLIP, early",
    definition="two-way identification among {n_stimuli} test stimuli; correlation of the layer at a quarter of the "
    "depth of the CLIP image tower ({clip}), pooled to at most 8 x 8 places or 16 groups of tokens",
    scale="share",
    groups=IMAGES | {"reference"},
    chance=_half,
    compute=_clip_early,
)
TWO_WAY_CLIP_LATE = ImageMetric(
    title="2-way CLIP, late",
    definition="two-way identification among {n_stimuli} test stimuli; correlation of the layer at three quarters of "
    "the depth of the CLIP image tower ({clip}), pooled to at most 8 x 8 places or 16 groups of tokens",
    scale="share",
    groups=IMAGES | {"reference"},
    chance=_half,
    compute=_clip_late,
)
TWO_WAY_CLASSIFIER_EARLY = ImageMetric(
    needs="classifier features",
    title="2-way classifier, early",
    definition="two-way identification among {n_stimuli} test stimuli; correlation of the layer at a quarter of the "
    "depth of the classifier ({classifier}), pooled to at most 8 x 8 places or 16 groups of tokens",
    scale="share",
    groups=IMAGES | {"reference"},
    chance=_half,
    compute=_classifier_early,
)
TWO_WAY_CLASSIFIER_LATE = ImageMetric(
    needs="classifier features",
    title="2-way classifier, late",
    definition="two-way identification among {n_stimuli} test stimuli; correlation of the layer at three quarters of "
    "the depth of the classifier ({classifier}), pooled to at most 8 x 8 places or 16 groups of tokens",
    scale="share",
    groups=IMAGES | {"reference"},
    chance=_half,
    compute=_classifier_late,
)
TWO_WAY_PIXELS = ImageMetric(
    title="2-way pixels",
    definition="two-way identification among {n_stimuli} test stimuli, divided by {n_other_stimuli} exactly; Pearson "
    "correlation of RGB values at 64 px",
    scale="share",
    groups=IMAGES | {"reference"},
    chance=_half,
    compute=_pixels,
)


# ---------------------------------------------------------------------------------- among the stimuli of the true class


def _within_class(comparison: Comparison) -> Floats:
    return two_way_identification(comparison.similarity_in_pixels, comparison.columns, allowed=comparison.in_same_class)


def _within_class_clip(comparison: Comparison) -> Floats:
    return two_way_identification(comparison.similarity_in_clip, comparison.columns, allowed=comparison.in_same_class)


def _within_class_top1(comparison: Comparison) -> Floats:
    return retrieval_accuracy(comparison.similarity_in_pixels, comparison.columns, allowed=comparison.in_same_class)


def _chance_within_class_top1(scoring: Scoring) -> float | None:
    sizes = scoring.references.same_class.sum(axis=1)
    return float((1 / sizes[sizes > 1]).mean()) if (sizes > 1).any() else None


WITHIN_CLASS_TWO_WAY = ImageMetric(
    title="within class",
    definition="two-way identification among the test stimuli of the true class only ({class_sizes} a class), in RGB "
    "values at 64 px: what knowing the class, or the block it was shown in, cannot raise above one half",
    scale="share",
    groups=IMAGES | {"eeg", "reference", "difference"},
    in_main_table=True,
    chance=_half,
    compute=_within_class,
)
WITHIN_CLASS_TWO_WAY_CLIP = ImageMetric(
    title="within class, CLIP",
    definition="two-way identification among the test stimuli of the true class only ({class_sizes} a class), in CLIP "
    "image embeddings ({clip})",
    scale="share",
    groups=IMAGES | {"eeg", "reference"},
    chance=_half,
    compute=_within_class_clip,
)
WITHIN_CLASS_TOP1 = ImageMetric(
    title="within-class top-1",
    definition="the true stimulus is the most similar one among the test stimuli of its own class ({class_sizes} a "
    "class), in RGB values at 64 px; chance is the mean of 1/n",
    scale="share",
    groups=IMAGES | {"reference"},
    chance=_chance_within_class_top1,
    compute=_within_class_top1,
)


# --------------------------------------------------------------------------------------------- top-k, among all stimuli


def _retrieval_top1(comparison: Comparison) -> Floats:
    return retrieval_accuracy(comparison.similarity_in_clip, comparison.columns)


def _retrieval_top5(comparison: Comparison) -> Floats:
    return retrieval_accuracy(comparison.similarity_in_clip, comparison.columns, top_k=5)


def _chance_retrieval_top1(scoring: Scoring) -> float:
    return 1 / len(scoring.references.stimuli)


def _chance_retrieval_top5(scoring: Scoring) -> float:
    return min(1.0, 5 / len(scoring.references.stimuli))


RETRIEVAL_TOP1 = ImageMetric(
    title="retrieval top-1",
    definition="the true stimulus ranks first among all {n_stimuli} test stimuli in CLIP image embeddings ({clip}); "
    "ties count against",
    scale="share",
    groups=IMAGES | {"eeg", "reference"},
    chance=_chance_retrieval_top1,
    compute=_retrieval_top1,
)
RETRIEVAL_TOP5 = ImageMetric(
    title="retrieval top-5",
    definition="the true stimulus ranks among the first five of all {n_stimuli} test stimuli in CLIP image embeddings "
    "({clip}); ties count against",
    scale="share",
    groups=IMAGES | {"eeg", "reference"},
    chance=_chance_retrieval_top5,
    compute=_retrieval_top5,
)
