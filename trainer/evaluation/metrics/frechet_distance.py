"""FID: Fréchet distance between the features of a set of images and of the stimuli."""

import numpy as np

from neuroimagen.data_shards.common.arrays import Floats
from neuroimagen.trainer.evaluation.intervals import Estimate
from neuroimagen.trainer.evaluation.metrics.metric import SetMetric
from neuroimagen.trainer.evaluation.scoring.comparison import Comparison


def frechet_distance(features: Floats, references: Floats) -> float:
    """‖μ₁ − μ₂‖² + Tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½) (Heusel et al. 2017); features [N₁, D], [N₂, D], unbiased covariances.

    With Σ = AᵀA for the centred, scaled features A, the trace of the root is the nuclear norm of A₁A₂ᵀ. So no matrix
    root is computed, and the result is exact also for N < D, where the covariances are singular. Raises ValueError for
    fewer than two images.
    """
    means: list[Floats] = []
    roots: list[Floats] = []
    for x in (np.asarray(features, dtype=np.float64), np.asarray(references, dtype=np.float64)):
        if len(x) < 2:
            raise ValueError(f"a covariance needs at least 2 images, got {len(x)}")
        means.append(x.mean(axis=0))
        root = (x - means[-1]) / np.sqrt(len(x) - 1)
        if len(root) > root.shape[1]:
            root = np.asarray(np.linalg.qr(root, mode="r"))  # same AᵀA, at most D rows
        roots.append(root)
    traces = sum(float((root**2).sum()) for root in roots)
    nuclear_norm = float(np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum())
    return max(0.0, float(((means[0] - means[1]) ** 2).sum()) + traces - 2 * nuclear_norm)


def _compute(comparison: Comparison) -> Estimate | None:
    features, references = comparison.classifier.features, comparison.classifier_of_stimuli.features
    if min(len(features), len(references)) < 2:
        return None
    return Estimate(value=frechet_distance(features, references), low=None, high=None, n=len(features))


FID = SetMetric(
    needs="classifier features",
    title="FID",
    definition="Frechet distance between gaussians fitted to {feature_dimension}-d features ({classifier}) of "
    "{n_images} pictures and of the {n_stimuli} stimuli; biased upwards for few pictures, so without an interval",
    higher_is_better=False,
    bounds=(0.0, float("inf")),
    compute=_compute,
)
