"""Perceptual distance: LPIPS's distance over the layers of any vision network, without learnt weights."""

from neuroimagen.data_shards.common.arrays import Floats
from neuroimagen.trainer.evaluation.metrics.metric import ImageMetric
from neuroimagen.trainer.evaluation.scoring.comparison import Comparison


def _compute(comparison: Comparison) -> Floats | None:
    network = comparison.scoring.networks.perceptual
    return None if network is None else network.distances(comparison.images, comparison.stimuli)


PERCEPTUAL_DISTANCE = ImageMetric(
    title="perceptual",
    definition="LPIPS's distance without learnt weights: squared difference of unit-length channels, mean over places "
    "and over all layers ({perceptual}); figures of other networks do not compare",
    higher_is_better=False,
    bounds=(0.0, float("inf")),
    compute=_compute,
)
