"""Caption similarity: the cosine in CLIP's shared space."""

import numpy as np

from neuroimagen.trainer.evaluation.metrics.caption_similarity import CAPTION_SIMILARITY, cosine
from neuroimagen.trainer.evaluation.scoring.comparison import Comparison
from neuroimagen.trainer.evaluation.scoring.scoring import Scoring


def test_cosines_by_hand() -> None:
    x, y = np.array([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]]), np.array([[4.0, 3.0], [-2.0, 0.0], [1.0, 1.0]])
    np.testing.assert_allclose(cosine(x, y), [24 / 25, -1, 0])


def test_it_is_that_of_the_image_and_the_caption_of_its_own_stimulus(scoring: Scoring) -> None:
    columns = np.array([3, 0])
    comparison = Comparison(scoring, scoring.references.images[:2], columns=columns)
    image, caption = scoring.references.clip.features[0], scoring.references.captions[3]
    expected = image @ caption / np.linalg.norm(image) / np.linalg.norm(caption)
    values = CAPTION_SIMILARITY.compute(comparison)
    assert values is not None
    np.testing.assert_allclose(values[0], expected, atol=1e-4)
