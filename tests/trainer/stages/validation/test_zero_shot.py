"""Which validation segments are known, and which are asked about, where no class is trained on."""

import numpy as np
import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.stages.validation.zero_shot import is_zero_shot, known_and_queries


def test_known_and_queries_keep_a_stimulus_together() -> None:
    labels = np.array([5, 5, 5, 5, 7, 7, 9, 9, 9, 9])
    stimuli = np.array([0, 1, 0, 1, 2, 2, 3, 4, 5, 3])
    rows = np.arange(10) + 100
    known, queries = known_and_queries(rows, labels, stimuli)
    assert known.tolist() == [100, 102, 104, 105, 106, 108, 109]
    assert queries.tolist() == [101, 103, 107]
    assert is_zero_shot(np.array([1, 2]), labels)
    assert not is_zero_shot(np.array([1, 9]), labels)
    with pytest.raises(UserError, match="none has two stimuli"):
        known_and_queries(rows[:6], labels[:6], np.array([0, 0, 0, 0, 2, 2]))
