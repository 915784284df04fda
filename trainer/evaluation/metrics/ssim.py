"""SSIM: structural similarity of an image and its stimulus.

The saliency stage has an SSIM of its own (trainer/networks/gan.py), which must be differentiable and fast on a GPU. It
computes convolutions; this one computes the same blur as matrix products, which on a CPU is ten times faster. The two
agree up to rounding for the same values, and a test compares them; neither can replace the other without changing
figures in the last digits. The stage gives it images in [-1, 1], and SSIM depends on the offset of the values: figures
that the stage logs cannot be compared with those of the evaluation, whose images are in [0, 1].
"""

import numpy as np
import torch

from neuroimagen.data_shards.common.arrays import Floats, Images
from neuroimagen.trainer.evaluation.metrics.metric import IMAGES, ImageMetric
from neuroimagen.trainer.evaluation.scoring.comparison import Comparison
from neuroimagen.trainer.evaluation.scoring.correlation import check_pairs, unit_range

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_K1, SSIM_K2 = 0.01, 0.03
_BLUR_BLOCK = 54


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

    It is computed as products with banded matrices, a block of columns at a time, which on a CPU is ten times faster
    than a convolution of single-channel maps.
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
    """Structural similarity (Wang et al. 2004) of each pair of RGB images, data range 1; float64 [N].

    Gaussian window 11 × 11 with σ = 1.5, population covariance, mean over the channels and over the pixels whose window
    lies inside, as scikit-image with gaussian_weights=True, use_sample_covariance=False. (torchmetrics averages over
    reflected borders too.)
    """
    check_pairs(images, references)
    if min(images.shape[2:]) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs images of at least {SSIM_WINDOW} px, got {images.shape[2:]}")
    values: list[torch.Tensor] = []
    for start in range(0, len(images), batch_size):
        x, y = (unit_range(chunk[start : start + batch_size]).flatten(0, 1) for chunk in (images, references))
        mean_x, mean_y, xx, yy, xy = _gaussian_blur(torch.cat([x, y, x * x, y * y, x * y])).chunk(5)
        luminance = (2 * mean_x * mean_y + SSIM_K1**2) / (mean_x**2 + mean_y**2 + SSIM_K1**2)
        structure = (2 * (xy - mean_x * mean_y) + SSIM_K2**2) / (xx - mean_x**2 + yy - mean_y**2 + SSIM_K2**2)
        values.append((luminance * structure).flatten(1).mean(dim=1).view(-1, 3).mean(dim=1))
    return torch.cat(values).double().numpy() if values else np.zeros(0)


def _compute(comparison: Comparison) -> Floats:
    return ssim(comparison.images, comparison.stimuli)


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
