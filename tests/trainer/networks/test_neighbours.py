"""The contrastive stage's validation figures against scikit-learn."""

import numpy as np
import torch
from sklearn.metrics import accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from neuroimagen.trainer.stages.contrastive import neighbour_accuracy


def clusters(num: int, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, size=num)
    centres = np.random.default_rng(9).normal(size=(5, 7))
    return torch.from_numpy(centres[labels] + 1.3 * rng.normal(size=(num, 7))), labels * 10


def test_one_neighbour_and_untied_votes_are_scikit_learn_s() -> None:
    (known, labels), (queries, truth) = clusters(211, 0), clusters(90, 1)
    reference = KNeighborsClassifier(1).fit(known, labels).predict(queries)
    assert neighbour_accuracy(known, labels, queries, truth, num_neighbours=1) == accuracy_score(truth, reference)
    two = labels % 20  # two classes and an odd number of voters: no ties
    reference = KNeighborsClassifier(15).fit(known, two).predict(queries)
    share = neighbour_accuracy(known, two, queries, truth % 20, num_neighbours=15)
    assert share == accuracy_score(truth % 20, reference)
    assert 0.5 < share < 1.0


def test_among_equally_many_votes_the_nearest_voter_decides() -> None:
    known = torch.tensor([[1.0], [2.0], [3.0], [4.0]]).double()
    query = torch.zeros(1, 1).double()
    for labels, winner in (([3, 8, 8, 3], 3), ([8, 3, 3, 8], 8), ([3, 8, 8, 8], 8)):
        assert neighbour_accuracy(known, np.array(labels), query, np.array([winner]), num_neighbours=4) == 1.0


def test_fewer_segments_than_neighbours_all_vote() -> None:
    known, labels = torch.tensor([[0.0], [1.0]]), np.array([4, 4])
    assert neighbour_accuracy(known, labels, known, labels, num_neighbours=15) == 1.0
