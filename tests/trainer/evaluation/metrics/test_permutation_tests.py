"""Permutation tests of images: significant for the true stimuli, not for those of other stimuli."""

import numpy as np

from neuroimagen.trainer.evaluation.metrics.comparison import Comparison
from neuroimagen.trainer.evaluation.metrics.permutation_tests import WITHIN_CLASS_P
from neuroimagen.trainer.evaluation.metrics.scoring import Scoring
from neuroimagen.trainer.evaluation.permutation_test import NUM_PERMUTATIONS


def test_the_true_image_is_told_within_its_class_and_the_other_one_is_not(scoring: Scoring) -> None:
    """Each of six classes has two stimuli: a permutation within the classes leaves all in place once in 64."""
    images, columns = scoring.references.images, np.arange(12)
    p = WITHIN_CLASS_P.compute(Comparison(scoring, images, columns=columns))
    assert abs(p - 1 / 64) < 5 * np.sqrt(1 / 64 / NUM_PERMUTATIONS)
    others = scoring.references.same_class & ~np.eye(12, dtype=bool)
    partner = others.argmax(axis=1)
    assert WITHIN_CLASS_P.compute(Comparison(scoring, images, columns=columns, shown=partner)) == 1.0
