"""SSIM: structural similarity of an image and its stimulus."""

from neuroimagen.data_shards.common.arrays import Floats
from neuroimagen.trainer.evaluation.metrics.metric import IMAGES, ImageMetric
from neuroimagen.trainer.evaluation.scoring.comparison import Comparison


def _compute(comparison: Comparison) -> Floats:
    return comparison.scoring.references.blurred.ssim(comparison.images, comparison.columns)


SSIM = ImageMetric(
    title="SSIM",
    definition="structural similarity to the stimulus, gaussian window 11 with sigma 1.5, data range 1, RGB, "
    "population covariance, borders cropped, at {size} px",
    bounds=(-1.0, 1.0),
    groups=IMAGES | {"difference"},
    in_main_table=True,
    ranks_examples=True,
    searchable=True,
    compute=_compute,
)
