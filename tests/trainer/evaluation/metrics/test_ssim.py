"""The metric SSIM: each image with its own stimulus."""

import numpy as np
from simulated_run import Finished

from neuroimagen.trainer.evaluation.metrics.ssim import SSIM
from neuroimagen.trainer.evaluation.scoring.comparison import Comparison
from neuroimagen.trainer.evaluation.scoring.scoring import Scoring
from neuroimagen.trainer.evaluation.scoring.structural_similarity import ssim


def test_the_metric_compares_each_image_with_its_own_stimulus(finished: Finished, scoring: Scoring) -> None:
    columns = np.array([3, 0, 3, 11])
    images = scoring.references.images[[0, 0, 3, 5]]
    value = SSIM.compute(Comparison(scoring, images, columns=columns))
    assert value is not None
    np.testing.assert_allclose(value, ssim(images, scoring.references.images[columns]), atol=1e-7)
    assert value[2] == value.max()
