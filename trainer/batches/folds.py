"""Divides the stimuli of a training split into folds, so that networks are trained without one of them.

A stimulus is in one fold, whoever saw it and however often. The folds are a function of the data set alone, so every
job that leaves out the same fold leaves out the same stimuli.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from neuroimagen.data_shards.common.arrays import Integers
from neuroimagen.data_shards.dataset.dataset import Dataset

NO_FOLD = -1
"""Fold of a stimulus that is not in the training split."""


def fold_of_stimuli(dataset: Dataset, num_folds: int) -> Integers:
    """The fold, 0 to num_folds − 1, of every stimulus of a data set (of the first one, if several are joined), [S].

    The stimuli of a class are divided evenly, and so are all.
    """
    first = dataset.sources[0]
    folds = np.full(len(first.stimuli), NO_FOLD, dtype=np.int64)
    trained = np.unique(first.index.stimulus[first.rows("train")]).astype(np.int64)
    folds[trained] = dealt(first.stimuli.labels[trained], [first.stimuli.keys[row] for row in trained], num_folds)
    return folds


def dealt(labels: Integers, keys: Sequence[str], num_folds: int) -> Integers:
    """Deal items out to folds in turn, class after class, within a class in the order of their keys' hashes, [n]."""
    hashes = np.array([hashlib.blake2b(key.encode(), digest_size=16).hexdigest() for key in keys])
    order = np.lexsort((hashes, labels))
    folds = np.empty(len(order), dtype=np.int64)
    folds[order] = np.arange(len(order)) % num_folds
    return folds


def without_fold(dataset: Dataset, rows: Integers, leave_out: tuple[int, int]) -> Integers:
    """Those of training `rows` whose stimulus is not in fold k of n, for `leave_out` (k, n).

    Rows of further data sets that are joined to the first stay: their stimuli are others.
    """
    fold, num_folds = leave_out
    source, _ = dataset.locate(rows)
    kept = np.ones(len(rows), dtype=bool)
    own = source == 0
    kept[own] = fold_of_stimuli(dataset, num_folds)[dataset.index.stimulus[rows[own]]] != fold
    return rows[kept]


def rows_of_folds(dataset: Dataset, subjects: Sequence[int] | None) -> Integers:
    """The rows that a cross-validation divides: the training and validation splits together, in the index's order."""
    return np.sort(np.concatenate([dataset.rows("train", subjects), dataset.rows("val", subjects)]))


def divides_stimuli(dataset: Dataset, rows: Integers, num_folds: int) -> bool:
    """Whether folds can be made of whole stimuli: every class has at least as many among `rows` as there are folds."""
    pairs = np.unique(np.stack([dataset.index.label[rows], dataset.index.stimulus[rows]]), axis=1)
    return bool(np.unique(pairs[0], return_counts=True)[1].min() >= num_folds)


def folds_of_rows(dataset: Dataset, rows: Integers, num_folds: int) -> Integers:
    """The fold of each of `rows` for a cross-validation, [n].

    By stimulus where `divides_stimuli`, so that no fold is predicted by networks that have seen its stimuli; else by
    segment: each subject's segments of a class are cut into stretches in the index's order, which is that of recording,
    so that neighbours in time, which share slow drift and perhaps samples, mostly stay together.
    """
    label, stimulus = dataset.index.label[rows], dataset.index.stimulus[rows]
    folds = np.empty(len(rows), dtype=np.int64)
    if divides_stimuli(dataset, rows, num_folds):
        stimuli, places = np.unique(stimulus, return_inverse=True)
        labels = np.empty(len(stimuli), dtype=np.int64)
        labels[places] = label
        return dealt(labels, [str(one) for one in stimuli], num_folds)[places]
    groups = np.unique(np.stack([label, dataset.index.subject[rows]]), axis=1, return_inverse=True)[1].reshape(-1)
    for group in range(int(groups.max()) + 1):
        own = np.flatnonzero(groups == group)
        # Groups of fewer segments than folds begin at different folds, so that no fold is empty.
        folds[own] = (np.arange(len(own)) * num_folds // len(own) + group) % num_folds
    return folds
