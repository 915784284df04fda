"""n-way accuracy: whether the true class, or the true stimulus, is recognised among others drawn at random."""

import numpy as np

from neuroimagen.data_shards.common.arrays import Floats, Integers
from neuroimagen.trainer.evaluation.metrics.metric import IMAGES, ImageMetric, Metric
from neuroimagen.trainer.evaluation.scoring.comparison import Comparison
from neuroimagen.trainer.evaluation.scoring.scoring import Scoring


def n_way_accuracy(
    scores: Floats, labels: Integers, *, n_way: int, top_k: int = 1, num_trials: int = 50, seed: int = 0
) -> Floats:
    """Share of trials in which fewer than `top_k` of `n_way` − 1 random other classes score as high as the true one.

    scores [N, M], labels [N] in [0, M); float64 [N]. Which others score as high as the true class does not depend on
    the draw, so their number among n_way − 1 drawn without replacement is hypergeometric, and a trial draws this
    number. For n_way = M nothing is drawn. Raises ValueError unless 1 ≤ top_k < n_way ≤ M.
    """
    num_classes = scores.shape[1]
    if not 2 <= n_way <= num_classes or not 1 <= top_k < n_way:
        raise ValueError(f"n_way {n_way}, top_k {top_k}: need 1 <= top_k < n_way <= {num_classes} classes")
    true_scores = np.take_along_axis(scores, labels[:, None], axis=1)
    # [N]; the true class itself is not counted. Not `>=`: a score that is not a number is no hit for the true class.
    beaters = num_classes - (scores < true_scores).sum(axis=1) - 1
    if n_way == num_classes:
        return (beaters < top_k).astype(np.float64)
    draws = np.random.default_rng(seed).hypergeometric(
        beaters, num_classes - 1 - beaters, n_way - 1, size=(num_trials, len(beaters))
    )
    return (draws < top_k).mean(axis=0)


def _accuracy(comparison: Comparison, targets: Integers, *, top_k: int = 1) -> Floats:
    scoring = comparison.scoring
    return n_way_accuracy(
        comparison.class_scores,
        targets,
        n_way=scoring.n_way,
        top_k=top_k,
        num_trials=scoring.config.num_trials,
        seed=scoring.config.seed,
    )


def _top1(comparison: Comparison) -> Floats:
    return _accuracy(comparison, comparison.targets)


def _top5(comparison: Comparison) -> Floats | None:
    return _accuracy(comparison, comparison.targets, top_k=5) if comparison.scoring.n_way > 5 else None


def _own_verdict(comparison: Comparison) -> Floats:
    scores = comparison.classifier_of_stimuli.scores
    assert scores is not None  # a classifier has them
    return _accuracy(comparison, scores[comparison.columns].argmax(axis=1))


def _chance_top1(scoring: Scoring) -> float:
    return 1 / scoring.n_way


def _chance_top5(scoring: Scoring) -> float | None:
    return 5 / scoring.n_way if scoring.n_way > 5 else None


def _chance_retrieval_top1(scoring: Scoring) -> float:
    return 1 / scoring.num_candidates


def _chance_retrieval_top5(scoring: Scoring) -> float:
    return min(1.0, 5 / scoring.num_candidates)


ACCURACY = ImageMetric(
    needs="class scores",
    title="accuracy",
    definition="{n_way}-way top-1: the classifier ({classifier}) scores the picture over the true class and "
    "{n_others} others drawn at random; share of {trials} seeded trials in which no other scores as high; true "
    "class by label",
    scale="share",
    groups=IMAGES | {"eeg", "baseline", "reference", "difference"},
    in_main_table=True,
    searchable=True,
    chance=_chance_top1,
    compute=_top1,
)
ACCURACY_TOP5 = ImageMetric(
    needs="class scores",
    title="top-5",
    definition="{n_way}-way top-5: as accuracy, but fewer than five of the {n_others} others score as high as the "
    "true class",
    scale="share",
    groups=IMAGES | {"reference"},
    chance=_chance_top5,
    compute=_top5,
)
ACCURACY_OWN_VERDICT = ImageMetric(
    needs="class scores",
    title="agreement",
    definition="{n_way}-way top-1 with the classifier's own verdict on the true stimulus as the target instead of the "
    "label",
    scale="share",
    compute=_own_verdict,
)
RETRIEVAL200_TOP1 = Metric(
    title="200-way top-1",
    definition="the true stimulus ranks first among {candidates} test stimuli, itself and others drawn at random, in "
    "CLIP image embeddings ({clip}); {candidate_trials}; ties count against (the protocol of THINGS-EEG2)",
    scale="share",
    groups=frozenset({"eeg", "reference"}),
    chance=_chance_retrieval_top1,
)
RETRIEVAL200_TOP5 = Metric(
    title="200-way top-5",
    definition="the true stimulus ranks among the first five of {candidates} test stimuli, itself and others drawn at "
    "random, in CLIP image embeddings ({clip}); {candidate_trials}; ties count against",
    scale="share",
    groups=frozenset({"eeg", "reference"}),
    chance=_chance_retrieval_top5,
)
