"""The metrics by name, in the order of the table's columns. docs/how-to/extending.md shows how a package adds one."""

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.registry import Registry
from neuroimagen.trainer.evaluation.metrics.metric import ImageMetric, Metric
from neuroimagen.trainer.evaluation.scoring.scoring import Scoring

_ROOM = "neuroimagen.trainer.evaluation.metrics"
METRICS: Registry[Metric] = Registry(
    "metric",
    "neuroimagen.metrics",
    {
        "accuracy": f"{_ROOM}.n_way_accuracy:ACCURACY",
        "accuracy_top5": f"{_ROOM}.n_way_accuracy:ACCURACY_TOP5",
        "accuracy_own_verdict": f"{_ROOM}.n_way_accuracy:ACCURACY_OWN_VERDICT",
        "ssim": f"{_ROOM}.ssim:SSIM",
        "pixcorr": f"{_ROOM}.pixel_correlation:PIXCORR",
        "two_way_clip": f"{_ROOM}.identification:TWO_WAY_CLIP",
        "two_way_classifier": f"{_ROOM}.identification:TWO_WAY_CLASSIFIER",
        "two_way_clip_early": f"{_ROOM}.identification:TWO_WAY_CLIP_EARLY",
        "two_way_clip_late": f"{_ROOM}.identification:TWO_WAY_CLIP_LATE",
        "two_way_classifier_early": f"{_ROOM}.identification:TWO_WAY_CLASSIFIER_EARLY",
        "two_way_classifier_late": f"{_ROOM}.identification:TWO_WAY_CLASSIFIER_LATE",
        "two_way_pixels": f"{_ROOM}.identification:TWO_WAY_PIXELS",
        "within_class_two_way": f"{_ROOM}.identification:WITHIN_CLASS_TWO_WAY",
        "within_class_two_way_clip": f"{_ROOM}.identification:WITHIN_CLASS_TWO_WAY_CLIP",
        "within_class_top1": f"{_ROOM}.identification:WITHIN_CLASS_TOP1",
        "perceptual_distance": f"{_ROOM}.perceptual_distance:PERCEPTUAL_DISTANCE",
        "permutation_p": f"{_ROOM}.permutation_tests:PERMUTATION_P",
        "within_class_p": f"{_ROOM}.permutation_tests:WITHIN_CLASS_P",
        "caption_similarity": f"{_ROOM}.caption_similarity:CAPTION_SIMILARITY",
        "retrieval_top1": f"{_ROOM}.identification:RETRIEVAL_TOP1",
        "retrieval_top5": f"{_ROOM}.identification:RETRIEVAL_TOP5",
        "retrieval200_top1": f"{_ROOM}.n_way_accuracy:RETRIEVAL200_TOP1",
        "retrieval200_top5": f"{_ROOM}.n_way_accuracy:RETRIEVAL200_TOP5",
        "embedding_top1": f"{_ROOM}.embedding_retrieval:EMBEDDING_TOP1",
        "embedding_top5": f"{_ROOM}.embedding_retrieval:EMBEDDING_TOP5",
        "embedding_mean_rank": f"{_ROOM}.embedding_retrieval:EMBEDDING_MEAN_RANK",
        "embedding_two_way": f"{_ROOM}.embedding_retrieval:EMBEDDING_TWO_WAY",
        "embedding_within_class": f"{_ROOM}.embedding_retrieval:EMBEDDING_WITHIN_CLASS",
        "embedding200_top1": f"{_ROOM}.embedding_retrieval:EMBEDDING200_TOP1",
        "embedding200_top5": f"{_ROOM}.embedding_retrieval:EMBEDDING200_TOP5",
        "inception_score": f"{_ROOM}.inception_score:INCEPTION_SCORE",
        "fid": f"{_ROOM}.frechet_distance:FID",
        "kid": f"{_ROOM}.kernel_distance:KID",
        "things_pixcorr": f"{_ROOM}.things:PIXCORR",
        "things_ssim": f"{_ROOM}.things:SSIM",
        "things_alexnet2": f"{_ROOM}.things:ALEXNET2",
        "things_alexnet5": f"{_ROOM}.things:ALEXNET5",
        "things_inception": f"{_ROOM}.things:INCEPTION",
        "things_clip": f"{_ROOM}.things:CLIP",
        "things_efficientnet": f"{_ROOM}.things:EFFICIENTNET",
        "things_swav": f"{_ROOM}.things:SWAV",
    },
)


def all_metrics() -> dict[str, Metric]:
    """Every metric by name. Raises UserError naming an entry point that is no Metric."""
    metrics = dict(METRICS.items())
    for name, metric in metrics.items():
        if not isinstance(metric, Metric):
            raise UserError(
                f"the metric {name!r} is a {type(metric).__name__}, not a Metric of {_ROOM}.metric. Correct the entry "
                f"point of the group {METRICS.group} in the package that adds it."
            )
    return metrics


def metrics_of(scoring: Scoring) -> dict[str, Metric]:
    """The metrics that an evaluation can have: those whose needs its networks meet."""
    offers = scoring.networks.offers
    return {name: metric for name, metric in all_metrics().items() if metric.needs is None or metric.needs in offers}


def metric_of(name: str) -> Metric:
    """A metric; one that no installed package has (of a results.json from elsewhere) is called by its name."""
    if name in METRICS:
        return METRICS[name]
    return Metric(title=name.replace("_", " "), definition=name, scale="p" if name.endswith("_p") else "number")


def main_metrics() -> tuple[str, ...]:
    """Names of the metrics of the main table."""
    return tuple(name for name, metric in all_metrics().items() if metric.in_main_table)


def searchable_metrics() -> dict[str, ImageMetric]:
    """The metrics that a guidance search can have as objectives, by name."""
    found = {name: metric for name, metric in all_metrics().items() if isinstance(metric, ImageMetric)}
    return {name: metric for name, metric in found.items() if metric.searchable}
