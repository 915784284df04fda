"""Ranks among the validation stimuli, and the figures made of them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuroimagen.trainer.stages.validation.retrieval_figures import ranks_of, retrieval_values


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 9))
def test_ranks_are_those_of_sorting_with_ties_against(seed: int, num_segments: int, num_stimuli: int) -> None:
    rng = np.random.default_rng(seed)
    similarity = rng.integers(0, 4, size=(num_segments, num_stimuli)).astype(np.float32)  # ties are common
    own = rng.integers(num_stimuli, size=num_segments)
    expected = [
        1 + sum(row[other] >= row[place] for other in range(num_stimuli) if other != place)
        for row, place in zip(similarity, own, strict=True)
    ]
    assert ranks_of(torch.from_numpy(similarity), torch.from_numpy(own)).tolist() == expected


def test_values_are_those_of_their_definitions() -> None:
    values = retrieval_values(torch.tensor([1, 2, 5, 6, 11]), 11)
    assert values["top1"].tolist() == [1, 0, 0, 0, 0]
    assert values["top5"].tolist() == [1, 1, 1, 0, 0]
    assert values["mrr"].tolist() == pytest.approx([1, 1 / 2, 1 / 5, 1 / 6, 1 / 11])
    assert values["two_way"].tolist() == pytest.approx([1, 0.9, 0.6, 0.5, 0])
    assert retrieval_values(torch.tensor([1]), 1)["two_way"].tolist() == [1]  # among one stimulus there is no other
