"""Permutation tests of the images: whether the class, and the image within the class, are recognised above chance."""

from neuroimagen.trainer.evaluation.metrics.comparison import Comparison
from neuroimagen.trainer.evaluation.metrics.metric import IMAGES, PermutationTest
from neuroimagen.trainer.evaluation.permutation_test import identification_table, permutation_p, recognition_table


def _class_p(comparison: Comparison) -> float:
    scoring, first = comparison.scoring, comparison.first_of_segment
    table = recognition_table(comparison.predicted[first], comparison.columns[first], scoring.references.labels)
    return permutation_p(table, seed=scoring.config.seed)


def _within_class_p(comparison: Comparison) -> float:
    scoring = comparison.scoring
    labels = scoring.references.labels
    table = identification_table(comparison.similarity_in_pixels, comparison.columns, labels)
    return permutation_p(table, labels, seed=scoring.config.seed)


PERMUTATION_P = PermutationTest(
    title="p, class",
    definition="share of {permutations} permutations of the stimuli's labels (all segments of a stimulus together) "
    "after which as many segments are given their class; not a test for drift, which the labels of blocks go "
    "along with",
    higher_is_better=False,
    scale="p",
    groups=IMAGES | {"eeg", "baseline"},
    compute=_class_p,
)
WITHIN_CLASS_P = PermutationTest(
    title="p, within class",
    definition="share of {permutations} permutations of the stimuli within their classes after which two-way "
    "identification within the class (RGB) is as high",
    higher_is_better=False,
    scale="p",
    groups=IMAGES | {"eeg"},
    compute=_within_class_p,
)
