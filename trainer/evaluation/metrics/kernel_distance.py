"""KID: kernel distance between the features of a set of images and of the stimuli."""

from typing import Any

import numpy as np

from neuroimagen.data_shards.common.arrays import Floats, Integers
from neuroimagen.trainer.evaluation.intervals import Estimate
from neuroimagen.trainer.evaluation.metrics.metric import SetMetric
from neuroimagen.trainer.evaluation.scoring.comparison import Comparison


def kernel_distance(
    features: Floats, references: Floats, *, feature_stimuli: Integers, reference_stimuli: Integers
) -> tuple[float, float]:
    """KID (Bińkowski et al. 2018), the unbiased squared MMD with kernel (x·y/D + 1)³, and its jackknife standard error.

    features [N₁, D], references [N₂, D], and the stimulus of each row: a jackknife step leaves out all rows of a
    stimulus. The error is NaN if a step leaves fewer than two images. Raises ValueError for fewer than two images.
    """
    x, y = np.asarray(features, dtype=np.float64), np.asarray(references, dtype=np.float64)
    if len(x) < 2 or len(y) < 2:
        raise ValueError(f"KID needs at least 2 images on each side, got {len(x)} and {len(y)}")
    stimuli = np.unique(np.concatenate([feature_stimuli, reference_stimuli]))
    in_x = (feature_stimuli[:, None] == stimuli).astype(np.float64)  # [N, G]
    in_y = (reference_stimuli[:, None] == stimuli).astype(np.float64)

    def kernel(a: Floats, b: Floats) -> Floats:
        return (a @ b.T / a.shape[1] + 1.0) ** 3

    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
    np.fill_diagonal(xx, 0.0)
    np.fill_diagonal(yy, 0.0)

    def without_each(k: Floats, rows: Floats, columns: Floats) -> Floats:
        """Sum of k over all pairs without those of each stimulus, [G]."""
        touched_rows = np.einsum("ng,n->g", rows, k.sum(axis=1))
        touched_columns = np.einsum("ng,n->g", columns, k.sum(axis=0))
        return k.sum() - touched_rows - touched_columns + np.einsum("ng,ng->g", rows, k @ columns)

    def estimate(sum_xx: Any, sum_yy: Any, sum_xy: Any, num_x: Any, num_y: Any) -> Any:  # scalars or [G]
        return sum_xx / (num_x * (num_x - 1)) + sum_yy / (num_y * (num_y - 1)) - 2 * sum_xy / (num_x * num_y)

    value = estimate(xx.sum(), yy.sum(), xy.sum(), len(x), len(y))
    left_x, left_y = len(x) - in_x.sum(axis=0), len(y) - in_y.sum(axis=0)
    if min(left_x.min(), left_y.min()) < 2 or len(stimuli) < 2:
        return float(value), float("nan")
    leave_one_out = estimate(
        without_each(xx, in_x, in_x), without_each(yy, in_y, in_y), without_each(xy, in_x, in_y), left_x, left_y
    )
    groups = len(stimuli)
    variance = (groups - 1) / groups * ((leave_one_out - leave_one_out.mean()) ** 2).sum()
    return float(value), float(np.sqrt(variance))


def _compute(comparison: Comparison) -> Estimate | None:
    features, references = comparison.classifier.features, comparison.classifier_of_stimuli.features
    if min(len(features), len(references)) < 2:
        return None
    value, error = kernel_distance(
        features, references, feature_stimuli=comparison.columns, reference_stimuli=np.arange(len(references))
    )
    if not np.isfinite(error):
        return Estimate(value=value, low=None, high=None, n=len(features))
    return Estimate(value=value, low=value - 1.96 * error, high=value + 1.96 * error, n=len(features))


KID = SetMetric(
    needs="classifier features",
    title="KID",
    definition="unbiased squared MMD with kernel (x.y/d + 1)^3 of {feature_dimension}-d features ({classifier}) of "
    "{n_images} pictures and of the {n_stimuli} stimuli; interval by jackknife over stimuli",
    higher_is_better=False,
    compute=_compute,
)
