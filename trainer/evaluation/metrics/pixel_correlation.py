"""PixCorr: Pearson correlation of an image and its stimulus over all pixels.

The saliency stage logs a PixCorr of its own (trainer/networks/gan.py), in PyTorch on the training device. The two agree
up to rounding, and tests compare them.
"""

import numpy as np

from neuroimagen.data_shards.common.arrays import Floats, Images
from neuroimagen.trainer.evaluation.metrics.metric import IMAGES, ImageMetric
from neuroimagen.trainer.evaluation.scoring.comparison import Comparison
from neuroimagen.trainer.evaluation.scoring.correlation import check_pairs, standardise


def pixel_correlation(images: Images, references: Images) -> Floats:
    """Pearson correlation over all RGB values of each pair, float64 [N]; 0 if either image is constant."""
    check_pairs(images, references)
    x, y = (standardise(pixels.reshape(len(pixels), -1)) for pixels in (images, references))
    return np.einsum("nd,nd->n", x, y, dtype=np.float64)


def _compute(comparison: Comparison) -> Floats:
    return pixel_correlation(comparison.images, comparison.stimuli)


PIXCORR = ImageMetric(
    title="PixCorr",
    definition="Pearson correlation of all RGB values of picture and stimulus at {size} px; 0 for a constant picture",
    bounds=(-1.0, 1.0),
    groups=IMAGES | {"difference"},
    in_main_table=True,
    ranks_examples=True,
    searchable=True,
    compute=_compute,
)
