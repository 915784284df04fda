"""The figures that THINGS papers print (ATM, CognitionCapturer; MindEye's protocol), with evaluate.preset: things.

trainer/evaluation/scoring/things/ has the networks and the preprocessing.
"""

from collections.abc import Callable

import numpy as np

from neuroimagen.data_shards.common.arrays import Floats
from neuroimagen.trainer.evaluation.metrics.identification import two_way_identification
from neuroimagen.trainer.evaluation.metrics.metric import IMAGES, ImageMetric
from neuroimagen.trainer.evaluation.scoring.comparison import Comparison
from neuroimagen.trainer.evaluation.scoring.feature_networks import Offer
from neuroimagen.trainer.evaluation.scoring.scoring import Scoring


def _pixcorr(comparison: Comparison) -> Floats:
    return comparison.things_pixels["pixcorr"]


def _ssim(comparison: Comparison) -> Floats:
    return comparison.things_pixels["ssim"]


def _identified(network: str, layer: str) -> Callable[[Comparison], Floats]:
    def compute(comparison: Comparison) -> Floats:
        return two_way_identification(comparison.similarity_in_things(network, layer), comparison.columns, tie=0.0)

    return compute


def _distance(network: str) -> Callable[[Comparison], Floats]:
    def compute(comparison: Comparison) -> Floats:
        similarity = comparison.similarity_in_things(network, network)
        own = similarity[np.arange(len(comparison)), comparison.columns].astype(np.float64)
        return np.clip(1.0 - own, 0.0, 2.0)  # rounding takes equal images below 0

    return compute


def _half(scoring: Scoring) -> float:
    return 0.5


def _two_way(title: str, needs: Offer, layer: str, features: str) -> ImageMetric:
    return ImageMetric(
        title=title,
        definition="THINGS papers' two-way identification: share of the other {n_other_stimuli} test stimuli to which "
        f"the picture is less similar than to its own, ties against; Pearson correlation of {features}",
        scale="share",
        groups=IMAGES | {"reference"},
        needs=needs,
        chance=_half,
        compute=_identified(needs.removeprefix("things "), layer),
    )


def _correlation_distance(title: str, needs: Offer, features: str) -> ImageMetric:
    return ImageMetric(
        title=title,
        definition=f"THINGS papers' correlation distance to the stimulus, 1 − Pearson correlation of {features}",
        higher_is_better=False,
        bounds=(0.0, 2.0),
        needs=needs,
        compute=_distance(needs.removeprefix("things ")),
    )


PIXCORR = ImageMetric(
    title="PixCorr, 425 px",
    definition="THINGS papers' PixCorr: Pearson correlation of all RGB values of picture and stimulus, both resized to "
    "256 px and then 425 px, bilinearly; 0 for a constant picture",
    bounds=(-1.0, 1.0),
    needs="things",
    compute=_pixcorr,
)
SSIM = ImageMetric(
    title="SSIM, grey, 425 px",
    definition="THINGS papers' SSIM: structural similarity of luminances, both resized to 256 px and then 425 px, "
    "bilinearly; gaussian window 11 with sigma 1.5, data range 1, population covariance, borders cropped",
    bounds=(-1.0, 1.0),
    needs="things",
    compute=_ssim,
)
ALEXNET2 = _two_way(
    "AlexNet(2)",
    "things alexnet",
    "alexnet2",
    "the rectified second convolution (features.4) at 256 px ({things_alexnet})",
)
ALEXNET5 = _two_way(
    "AlexNet(5)",
    "things alexnet",
    "alexnet5",
    "the rectified fifth convolution (features.11) at 256 px ({things_alexnet})",
)
INCEPTION = _two_way("Inception v3", "things inception", "inception", "the average pool at 342 px ({things_inception})")
CLIP = _two_way("CLIP, THINGS", "things clip", "clip", "projected image embeddings ({things_clip})")
EFFICIENTNET = _correlation_distance(
    "EfficientNet-B1", "things efficientnet", "the average pool at 255 px ({things_efficientnet})"
)
SWAV = _correlation_distance("SwAV", "things swav", "the average pool at 224 px ({things_swav})")
