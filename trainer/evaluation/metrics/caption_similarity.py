"""Caption similarity: cosine of an image and the caption of its stimulus in CLIP's shared space."""

import numpy as np

from neuroimagen.data_shards.common.arrays import Floats
from neuroimagen.trainer.evaluation.metrics.metric import ImageMetric
from neuroimagen.trainer.evaluation.scoring.comparison import Comparison


def cosine(x: Floats, y: Floats) -> Floats:
    """Cosine of each pair of rows: [N, D], [N, D] → [N]; 0 where a row is zero."""
    return np.einsum("nd,nd->n", x, y) / np.maximum(np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1), 1e-12)


def _compute(comparison: Comparison) -> Floats:
    return cosine(comparison.clip.features, comparison.scoring.references.captions[comparison.columns])


CAPTION_SIMILARITY = ImageMetric(
    title="caption",
    definition="cosine of the CLIP embeddings of the picture and of the stimulus' class caption ({clip})",
    bounds=(-1.0, 1.0),
    compute=_compute,
)
