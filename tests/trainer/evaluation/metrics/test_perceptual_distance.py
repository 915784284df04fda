"""The perceptual distance is measured where a network for it is configured."""

import dataclasses

import numpy as np

from neuroimagen.trainer.evaluation.metrics.perceptual_distance import PERCEPTUAL_DISTANCE
from neuroimagen.trainer.evaluation.scoring.comparison import Comparison
from neuroimagen.trainer.evaluation.scoring.scoring import Scoring


def test_it_needs_a_network(scoring: Scoring) -> None:
    images, columns = scoring.references.images, np.arange(12)
    values = PERCEPTUAL_DISTANCE.compute(Comparison(scoring, images, columns=columns))
    assert values is not None
    assert np.abs(values).max() < 1e-9
    without = dataclasses.replace(scoring, networks=dataclasses.replace(scoring.networks, perceptual=None))
    assert PERCEPTUAL_DISTANCE.compute(Comparison(without, images, columns=columns)) is None
