"""Permutation tests over stimuli: whether the class, and the image within the class, are recognised above chance.

The segments of a stimulus are permuted together, because they share their label.

Legend: S stimuli. `table[s, t]` is the sum of the scores that the segments of stimulus s would have if t had been
shown.
"""

import numpy as np

from neuroimagen.data_shards.common.arrays import Floats, Integers
from neuroimagen.trainer.evaluation.metrics.metric import IMAGES, PermutationTest
from neuroimagen.trainer.evaluation.scoring.comparison import Comparison
from neuroimagen.trainer.evaluation.scoring.scoring import NUM_PERMUTATIONS


def permutation_p(
    table: Floats, groups: Integers | None = None, *, seed: int = 0, num_permutations: int = NUM_PERMUTATIONS
) -> float:
    """Share of permutations of the stimuli (within `groups` [S], if given) that score at least as high; table [S, S].

    The observed order counts as one of the permutations, so the smallest p is 1/(num_permutations + 1).
    """
    rng = np.random.default_rng(seed)
    stimuli = np.arange(len(table))
    members = [stimuli] if groups is None else [stimuli[groups == group] for group in np.unique(groups)]
    observed = float(table[stimuli, stimuli].sum())
    as_high = 1
    for _ in range(num_permutations):
        shown = stimuli.copy()
        for member in members:
            shown[member] = rng.permutation(member)
        as_high += float(table[stimuli, shown].sum()) >= observed - 1e-9
    return as_high / (num_permutations + 1)


def recognition_table(predicted: Integers, shown: Integers, labels: Integers) -> Floats:
    """Number of segments of stimulus s for which the class of stimulus t was predicted, [S, S].

    predicted [N] are classes; shown [N] are the stimuli that were shown, in 0..S−1; labels [S] are the stimuli's
    classes.
    """
    counts = np.zeros((len(labels), int(max(labels.max(), predicted.max())) + 1))
    np.add.at(counts, (shown, predicted), 1)
    return counts[:, labels]


def identification_table(similarity: Floats, shown: Integers, labels: Integers) -> Floats:
    """Two-way identification within the class if another stimulus of the class had been shown, [S, S].

    similarity [N, S], shown [N] in 0..S−1, labels [S]. Entries across classes are 0; permutations within classes do not
    use them.
    """
    from scipy.stats import rankdata

    table = np.zeros((len(labels), len(labels)))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        items = np.flatnonzero(labels[shown] == label)
        if len(members) < 2 or not len(items):
            continue
        scores = (rankdata(similarity[np.ix_(items, members)], axis=1) - 1) / (len(members) - 1)
        for item, score in zip(items, scores, strict=True):
            table[shown[item], members] += score
    return table


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
    needs="class scores",
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
