"""The metrics, each with one frozen definition whose text is printed beside every figure.

Legend: N reconstructions, S candidate stimuli, M classes of the classifier, D features. Functions return one value an
item (float64 [N]) wherever the metric is a mean over items, so that intervals can be drawn over stimuli
(trainer/evaluation/intervals.py); Inception Score, FID and KID belong to a set of pictures and return one figure.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from neuroimagen.data_shards.common.arrays import Floats, Images, Integers

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_K1, SSIM_K2 = 0.01, 0.03
_BLUR_BLOCK = 54
PIXEL_IDENTIFICATION_SIZE = 64


@dataclass(frozen=True, kw_only=True)
class Definition:
    """What a metric's figure means: a heading, a sentence with the run's numbers to fill in, which way is better."""

    title: str
    text: str
    higher_is_better: bool = True
    is_share: bool = False
    """Whether the figure is a share of 1, shown as a percentage."""


DEFINITIONS: Mapping[str, Definition] = {
    "accuracy": Definition(
        title="accuracy",
        text="{n_way}-way top-1: the classifier ({classifier}) scores the picture over the true class and {n_others} "
        "others drawn at random; share of {trials} seeded trials in which no other scores as high; true class by label",
        is_share=True,
    ),
    "accuracy_top5": Definition(
        title="top-5",
        text="{n_way}-way top-5: as accuracy, but fewer than five of the {n_others} others score as high as the true "
        "class",
        is_share=True,
    ),
    "accuracy_own_verdict": Definition(
        title="agreement",
        text="{n_way}-way top-1 with the classifier's own verdict on the true stimulus as the target instead of the "
        "label",
        is_share=True,
    ),
    "ssim": Definition(
        title="SSIM",
        text="structural similarity to the stimulus, gaussian window 11 with sigma 1.5, data range 1, RGB, population "
        "covariance, borders cropped, at {size} px",
    ),
    "pixcorr": Definition(
        title="PixCorr",
        text="Pearson correlation of all RGB values of picture and stimulus at {size} px; 0 for a constant picture",
    ),
    "two_way_clip": Definition(
        title="2-way CLIP",
        text="two-way identification: share of the other {n_other_stimuli} test stimuli to which the picture is less "
        "similar than to its own, ties half; Pearson correlation of CLIP image embeddings ({clip})",
        is_share=True,
    ),
    "two_way_classifier": Definition(
        title="2-way classifier",
        text="two-way identification among {n_stimuli} test stimuli, divided by {n_other_stimuli} exactly; Pearson "
        "correlation of the classifier's penultimate features ({classifier}, {feature_dimension}-d)",
        is_share=True,
    ),
    "two_way_clip_early": Definition(
        title="2-way CLIP, early",
        text="two-way identification among {n_stimuli} test stimuli; correlation of the layer at a quarter "
        "of the depth of the CLIP image tower ({clip}), pooled to at most 8 x 8 places or 16 groups of tokens",
        is_share=True,
    ),
    "two_way_clip_late": Definition(
        title="2-way CLIP, late",
        text="two-way identification among {n_stimuli} test stimuli; correlation of the layer at three quarters "
        "of the depth of the CLIP image tower ({clip}), pooled to at most 8 x 8 places or 16 groups of tokens",
        is_share=True,
    ),
    "two_way_classifier_early": Definition(
        title="2-way classifier, early",
        text="two-way identification among {n_stimuli} test stimuli; correlation of the layer at a quarter "
        "of the depth of the classifier ({classifier}), pooled to at most 8 x 8 places or 16 groups of tokens",
        is_share=True,
    ),
    "two_way_classifier_late": Definition(
        title="2-way classifier, late",
        text="two-way identification among {n_stimuli} test stimuli; correlation of the layer at three quarters "
        "of the depth of the classifier ({classifier}), pooled to at most 8 x 8 places or 16 groups of tokens",
        is_share=True,
    ),
    "two_way_pixels": Definition(
        title="2-way pixels",
        text="two-way identification among {n_stimuli} test stimuli, divided by {n_other_stimuli} exactly; Pearson "
        "correlation of RGB values at 64 px",
        is_share=True,
    ),
    "within_class_two_way": Definition(
        title="within class",
        text="two-way identification among the test stimuli of the true class only ({class_sizes} a class), in RGB "
        "values at 64 px: what knowing the class, or the block it was shown in, cannot raise above one half",
        is_share=True,
    ),
    "within_class_two_way_clip": Definition(
        title="within class, CLIP",
        text="two-way identification among the test stimuli of the true class only ({class_sizes} a class), in CLIP "
        "image embeddings ({clip})",
        is_share=True,
    ),
    "within_class_top1": Definition(
        title="within-class top-1",
        text="the true stimulus is the most similar one among the test stimuli of its own class ({class_sizes} a "
        "class), in RGB values at 64 px; chance is the mean of 1/n",
        is_share=True,
    ),
    "perceptual_distance": Definition(
        title="perceptual",
        text="LPIPS's distance without learnt weights: squared difference of unit-length channels, mean over places "
        "and over all layers ({perceptual}); figures of other networks do not compare",
        higher_is_better=False,
    ),
    "permutation_p": Definition(
        title="p, class",
        text="share of {permutations} permutations of the stimuli's labels (all segments of a stimulus together) after "
        "which as many segments are given their class; not a test for drift, which the labels of blocks go along with",
        higher_is_better=False,
    ),
    "within_class_p": Definition(
        title="p, within class",
        text="share of {permutations} permutations of the stimuli within their classes after which two-way "
        "identification within the class (RGB) is as high",
        higher_is_better=False,
    ),
    "caption_similarity": Definition(
        title="caption",
        text="cosine of the CLIP embeddings of the picture and of the stimulus' class caption ({clip})",
    ),
    "retrieval_top1": Definition(
        title="retrieval top-1",
        text="the true stimulus ranks first among all {n_stimuli} test stimuli in CLIP image embeddings ({clip}); ties "
        "count against",
        is_share=True,
    ),
    "retrieval_top5": Definition(
        title="retrieval top-5",
        text="the true stimulus ranks among the first five of all {n_stimuli} test stimuli in CLIP image embeddings "
        "({clip}); ties count against",
        is_share=True,
    ),
    "retrieval200_top1": Definition(
        title="200-way top-1",
        text="the true stimulus ranks first among {candidates} test stimuli, itself and others drawn at random, in "
        "CLIP image embeddings ({clip}); {candidate_trials}; ties count against (the protocol of THINGS-EEG2)",
        is_share=True,
    ),
    "retrieval200_top5": Definition(
        title="200-way top-5",
        text="the true stimulus ranks among the first five of {candidates} test stimuli, itself and others drawn at "
        "random, in CLIP image embeddings ({clip}); {candidate_trials}; ties count against",
        is_share=True,
    ),
    "inception_score": Definition(
        title="IS",
        text="exp of the mean KL divergence of the class probabilities ({classifier}) from their mean; mean over "
        "{splits} splits of {n_images} pictures, interval 1.96 standard errors over the splits; ignores the stimulus",
    ),
    "fid": Definition(
        title="FID",
        text="Frechet distance between gaussians fitted to {feature_dimension}-d features ({classifier}) of {n_images} "
        "pictures and of the {n_stimuli} stimuli; biased upwards for few pictures, so without an interval",
        higher_is_better=False,
    ),
    "kid": Definition(
        title="KID",
        text="unbiased squared MMD with kernel (x.y/d + 1)^3 of {feature_dimension}-d features ({classifier}) of "
        "{n_images} pictures and of the {n_stimuli} stimuli; interval by jackknife over stimuli",
        higher_is_better=False,
    ),
}
"""Metric → definition. The texts are part of results.json: change a definition only together with its name."""


# ------------------------------------------------------------------------------------------------------- classification


def n_way_accuracy(
    scores: Floats, labels: Integers, *, n_way: int, top_k: int = 1, num_trials: int = 50, seed: int = 0
) -> Floats:
    """Share of trials in which fewer than `top_k` of `n_way` − 1 random other classes score as high as the true one.

    scores [N, M], labels [N] in [0, M). Which others beat the true class does not depend on the draw, so the number of
    beaters among n−1 drawn without replacement is hypergeometric, and a trial is one such draw; n_way = M needs none.
    """
    num_classes = scores.shape[1]
    if not 2 <= n_way <= num_classes or not 1 <= top_k < n_way:
        raise ValueError(f"n_way {n_way}, top_k {top_k}: need 1 <= top_k < n_way <= {num_classes} classes")
    true_scores = np.take_along_axis(scores, labels[:, None], axis=1)
    beaters = (scores >= true_scores).sum(axis=1) - 1  # [N]; the true class itself is not its own rival
    if n_way == num_classes:
        return (beaters < top_k).astype(np.float64)
    draws = np.random.default_rng(seed).hypergeometric(
        beaters, num_classes - 1 - beaters, n_way - 1, size=(num_trials, len(beaters))
    )
    return (draws < top_k).mean(axis=0)


# --------------------------------------------------------------------------------------------------------------- pixels


def _unit_range(images: Images) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images)).to(torch.float32) / 255.0


def _gaussian_band(num_outputs: int) -> torch.Tensor:
    """[num_outputs, num_outputs + 10]: row i holds the normalised gaussian window at columns i … i + 10."""
    offsets = torch.arange(SSIM_WINDOW, dtype=torch.float32) - SSIM_WINDOW // 2
    window = torch.exp(-(offsets**2) / (2 * SSIM_SIGMA**2))
    band = torch.zeros(num_outputs, num_outputs + SSIM_WINDOW - 1)
    for row in range(num_outputs):
        band[row, row : row + SSIM_WINDOW] = window / window.sum()
    return band


def _gaussian_blur(x: torch.Tensor) -> torch.Tensor:
    """Separable gaussian over the last two dimensions, where the window lies inside: [n, H, W] → [n, H − 10, W − 10].

    As products with banded matrices, a block of columns at a time: on CPU ten times faster than a convolution of
    single-channel maps.
    """
    for _ in range(2):
        length = x.shape[-1] - SSIM_WINDOW + 1
        blocks = []
        for start in range(0, length, _BLUR_BLOCK):
            size = min(_BLUR_BLOCK, length - start)
            blocks.append(x[..., start : start + size + SSIM_WINDOW - 1] @ _gaussian_band(size).T)
        x = torch.cat(blocks, dim=-1).transpose(-1, -2)
    return x


def ssim(images: Images, references: Images, *, batch_size: int = 16) -> Floats:
    """Structural similarity (Wang et al. 2004) of each pair of RGB pictures, data range 1.

    Gaussian window 11 × 11 with σ = 1.5, population covariance, mean over the channels and over the pixels whose window
    lies inside: what scikit-image gives with gaussian_weights=True, use_sample_covariance=False. (torchmetrics averages
    over reflected borders too.)
    """
    _check_pairs(images, references)
    if min(images.shape[2:]) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs pictures of at least {SSIM_WINDOW} px, got {images.shape[2:]}")
    values: list[torch.Tensor] = []
    for start in range(0, len(images), batch_size):
        x, y = (_unit_range(part[start : start + batch_size]).flatten(0, 1) for part in (images, references))
        mean_x, mean_y, xx, yy, xy = _gaussian_blur(torch.cat([x, y, x * x, y * y, x * y])).chunk(5)
        luminance = (2 * mean_x * mean_y + SSIM_K1**2) / (mean_x**2 + mean_y**2 + SSIM_K1**2)
        structure = (2 * (xy - mean_x * mean_y) + SSIM_K2**2) / (xx - mean_x**2 + yy - mean_y**2 + SSIM_K2**2)
        values.append((luminance * structure).flatten(1).mean(dim=1).view(-1, 3).mean(dim=1))
    return torch.cat(values).double().numpy() if values else np.zeros(0)


def pixel_correlation(images: Images, references: Images) -> Floats:
    """Pearson correlation over all RGB values of each pair; 0 where either picture is constant."""
    _check_pairs(images, references)
    x, y = (standardise(part.reshape(len(part), -1)) for part in (images, references))
    return np.einsum("nd,nd->n", x, y, dtype=np.float64)


def shrink(images: Images, size_px: int = PIXEL_IDENTIFICATION_SIZE) -> Floats:
    """Pictures as flat float32 [N, 3·size²], area-averaged to `size_px`: what pixel identification compares."""
    resized = F.interpolate(_unit_range(images), size=(size_px, size_px), mode="area")
    return resized.flatten(1).numpy()


def _check_pairs(images: Images, references: Images) -> None:
    if images.shape != references.shape or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"pairs of pictures must both be [N, 3, H, W], got {images.shape} and {references.shape}")


# ------------------------------------------------------------------------------------------------------- identification


def standardise(features: Floats | Images) -> Floats:
    """Rows centred and scaled to unit norm, float32 [N, D]; a constant row becomes zeros (correlation 0)."""
    centred = features.astype(np.float32) - features.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.divide(centred, norms, out=np.zeros_like(centred), where=norms > 1e-6)


def correlation_matrix(features: Floats, candidates: Floats) -> Floats:
    """Pearson correlation of every row with every candidate: [N, D], [S, D] → [N, S]."""
    return standardise(features) @ standardise(candidates).T


def two_way_identification(
    similarity: Floats, targets: Integers, *, allowed: NDArray[np.bool_] | None = None
) -> Floats:
    """Share of the other candidates that are less similar than the true one; ties count one half.

    similarity [N, S]; targets [N], the true candidate's column; allowed [N, S] limits the candidates (the true one is
    always among them). With S candidates the divisor is S − 1 exactly. NaN where there is no other candidate.
    """
    below, ties, others = _compare_with_target(similarity, targets, allowed)
    with np.errstate(invalid="ignore"):
        return (below + 0.5 * ties) / np.where(others > 0, others, np.nan)


def retrieval_accuracy(
    similarity: Floats, targets: Integers, *, top_k: int = 1, allowed: NDArray[np.bool_] | None = None
) -> Floats:
    """1 where fewer than `top_k` others are at least as similar as the true candidate, else 0; NaN without others."""
    below, _, others = _compare_with_target(similarity, targets, allowed)
    return np.where(others > 0, (others - below < top_k).astype(np.float64), np.nan)


def _compare_with_target(
    similarity: Floats, targets: Integers, allowed: NDArray[np.bool_] | None
) -> tuple[Integers, Integers, Integers]:
    rows = np.arange(len(similarity))
    rivals = np.ones(similarity.shape, dtype=bool) if allowed is None else allowed.copy()
    rivals[rows, targets] = False
    true_similarity = similarity[rows, targets][:, None]
    below = ((similarity < true_similarity) & rivals).sum(axis=1)
    ties = ((similarity == true_similarity) & rivals).sum(axis=1)
    return below, ties, rivals.sum(axis=1)


# ----------------------------------------------------------------------------------------------------- sets of pictures


def inception_score(probabilities: Floats, *, num_splits: int = 10, seed: int = 0) -> tuple[float, float]:
    """Mean and deviation over splits of exp(mean KL(p ‖ mean p)) (Salimans et al. 2016); probabilities [N, M]."""
    if not 1 <= num_splits <= len(probabilities):
        raise ValueError(f"cannot make {num_splits} splits of {len(probabilities)} pictures")
    order = np.random.default_rng(seed).permutation(len(probabilities))
    scores = []
    for split in np.array_split(np.asarray(probabilities, dtype=np.float64)[order], num_splits):
        marginal = split.mean(axis=0, keepdims=True)
        divergence = np.where(split > 0, split * np.log(np.where(split > 0, split, 1) / marginal), 0).sum(axis=1)
        scores.append(np.exp(divergence.mean()))
    return float(np.mean(scores)), float(np.std(scores, ddof=1)) if num_splits > 1 else 0.0


def frechet_distance(features: Floats, references: Floats) -> float:
    """‖μ₁ − μ₂‖² + Tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½) (Heusel et al. 2017); features [N₁, D], [N₂, D], unbiased covariances.

    With Σ = AᵀA for the centred, scaled features A, the trace of the root is the nuclear norm of A₁A₂ᵀ: no matrix root,
    exact also where N < D leaves the covariances singular.
    """
    means: list[Floats] = []
    roots: list[Floats] = []
    for x in (np.asarray(features, dtype=np.float64), np.asarray(references, dtype=np.float64)):
        if len(x) < 2:
            raise ValueError(f"a covariance needs at least 2 pictures, got {len(x)}")
        means.append(x.mean(axis=0))
        root = (x - means[-1]) / np.sqrt(len(x) - 1)
        if len(root) > root.shape[1]:
            root = np.asarray(np.linalg.qr(root, mode="r"))  # same AᵀA, at most D rows
        roots.append(root)
    traces = sum(float((root**2).sum()) for root in roots)
    nuclear_norm = float(np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum())
    return max(0.0, float(((means[0] - means[1]) ** 2).sum()) + traces - 2 * nuclear_norm)


def kernel_distance(
    features: Floats, references: Floats, *, feature_stimuli: Integers, reference_stimuli: Integers
) -> tuple[float, float]:
    """KID (Bińkowski et al. 2018), the unbiased squared MMD with kernel (x·y/D + 1)³, and its jackknife standard error.

    features [N₁, D], references [N₂, D]; the stimulus of each row says what a jackknife step leaves out together.
    """
    x, y = np.asarray(features, dtype=np.float64), np.asarray(references, dtype=np.float64)
    if len(x) < 2 or len(y) < 2:
        raise ValueError(f"KID needs at least 2 pictures on each side, got {len(x)} and {len(y)}")
    stimuli = np.unique(np.concatenate([feature_stimuli, reference_stimuli]))
    in_x = (feature_stimuli[:, None] == stimuli).astype(np.float64)  # [N, G]
    in_y = (reference_stimuli[:, None] == stimuli).astype(np.float64)

    def kernel(a: Floats, b: Floats) -> Floats:
        return (a @ b.T / a.shape[1] + 1.0) ** 3

    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
    np.fill_diagonal(xx, 0.0)
    np.fill_diagonal(yy, 0.0)

    def without_each(k: Floats, rows: Floats, columns: Floats) -> Floats:
        """Sum of k over all pairs, less those that touch each stimulus: [G]."""
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
