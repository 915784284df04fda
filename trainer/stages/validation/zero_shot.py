"""Validating on classes that were not trained on."""

import numpy as np

from neuroimagen.data_shards.common.errors import UserError


def is_zero_shot(train_labels: np.ndarray, val_labels: np.ndarray) -> bool:
    """Whether no class is in both splits, so that no validation segment can be assigned to one that was trained on."""
    return not np.isin(val_labels, train_labels).any()


def known_and_queries(rows: np.ndarray, labels: np.ndarray, stimuli: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`rows` as known segments and queries: each class's stimuli go to either in turn, all segments of one together.

    Raises UserError where no class has two stimuli.
    """
    pairs, pair_of_row = np.unique(np.stack([labels, stimuli], axis=1), axis=0, return_inverse=True)
    turn = np.arange(len(pairs)) - np.searchsorted(pairs[:, 0], pairs[:, 0])
    is_query = (turn % 2 == 1)[pair_of_row.reshape(-1)]
    if not is_query.any():
        raise UserError(
            "no class of the validation split is trained on, and none has two stimuli to be recognised by, so the best "
            "weights cannot be chosen. Make another split."
        )
    return rows[~is_query], rows[is_query]
