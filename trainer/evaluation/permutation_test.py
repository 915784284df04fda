"""Permutation tests over stimuli: the segments of a stimulus are permuted together, because they share their label.

Legend: S stimuli. `table[s, t]` is the sum of the scores that the segments of stimulus s would have if t had been
shown.
"""

import numpy as np

from neuroimagen.data_shards.common.arrays import Floats, Integers

NUM_PERMUTATIONS = 2000


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
