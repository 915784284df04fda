"""Structural similarity (SSIM, Wang et al. 2004) of images and references, whose blurs are computed once.

Gaussian window 11 × 11 with σ = 1.5, population covariance, mean over the channels and over the pixels whose window
lies inside, as scikit-image with gaussian_weights=True, use_sample_covariance=False. (torchmetrics averages over
reflected borders too.)

The saliency stage has an SSIM of its own (trainer/networks/gan.py), which must be differentiable and fast on a GPU. It
computes convolutions; this one computes the same blur as matrix products, which on a CPU is ten times faster. The two
agree up to rounding for the same values, and a test compares them; neither can replace the other without changing
figures in the last digits. The stage gives it images in [-1, 1], and SSIM depends on the offset of the values: figures
that the stage logs cannot be compared with those of the evaluation, whose images are in [0, 1].
"""

import numpy as np
import torch
from torch import Tensor

from neuroimagen.data_shards.common.arrays import Floats, Images, Integers
from neuroimagen.trainer.evaluation.scoring.correlation import check_pairs, unit_range

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_K1, SSIM_K2 = 0.01, 0.03
_BLUR_BLOCK = 54
_KEPT_BYTES = 2**29
"""Blurs of references that are kept; those beyond are computed again."""


def ssim(images: Images, references: Images, *, batch_size: int = 16) -> Floats:
    """SSIM of each pair of RGB images uint8 [N, 3, H, W], data range 1; float64 [N]."""
    check_pairs(images, references)
    return BlurredReferences(references).ssim(images, np.arange(len(images)), batch_size=batch_size)


class BlurredReferences:
    """S references, uint8 RGB [S, 3, H, W], with their blurs as far as they have been needed and fit into memory."""

    def __init__(self, references: Images) -> None:
        self._references = references
        self._kept: dict[int, Tensor] = {}
        inside = [side - SSIM_WINDOW + 1 for side in references.shape[2:]]
        self._most = _KEPT_BYTES // max(1, 2 * 4 * 3 * inside[0] * inside[1])

    def ssim(self, images: Images, columns: Integers, *, batch_size: int = 16) -> Floats:
        """SSIM of images [N, 3, H, W] with the references at `columns` [N], data range 1; float64 [N]."""
        if min(images.shape[2:]) < SSIM_WINDOW:
            raise ValueError(f"SSIM needs images of at least {SSIM_WINDOW} px, got {images.shape[2:]}")
        values: list[Tensor] = []
        for start in range(0, len(images), batch_size):
            chosen = columns[start : start + batch_size]
            x, y = (unit_range(part) for part in (images[start : start + batch_size], self._references[chosen]))
            mean_x, xx, xy = _gaussian_blur(torch.cat([x, x * x, x * y])).chunk(3)
            mean_y, yy = self._blurs(chosen)
            values.append(_similarity(mean_x, mean_y, xx, yy, xy))
        return torch.cat(values).double().numpy() if values else np.zeros(0)

    def _blurs(self, columns: Integers) -> tuple[Tensor, Tensor]:
        """Blur of the references at `columns` [n] and of their squares, [n, 3, H − 10, W − 10] each."""
        missing = [column for column in dict.fromkeys(columns.tolist()) if column not in self._kept]
        found = self._kept
        if missing:
            y = unit_range(self._references[missing])
            blurs = torch.stack(_gaussian_blur(torch.cat([y, y * y])).chunk(2), dim=1)
            # A copy: a view would keep the whole batch.
            made = {column: blur.clone() for column, blur in zip(missing, blurs, strict=True)}
            found = {**self._kept, **made}
            if len(found) <= self._most:
                self._kept = found
        mean, square = torch.stack([found[column] for column in columns.tolist()], dim=1)
        return mean, square


def ssim_of_values(x: Tensor, y: Tensor) -> Tensor:
    """SSIM of each pair of images [n, C, H, W] with values in 0..1, in the precision of the values; [n]."""
    mean_x, mean_y, xx, yy, xy = _gaussian_blur(torch.cat([x, y, x * x, y * y, x * y])).chunk(5)
    return _similarity(mean_x, mean_y, xx, yy, xy)


def _similarity(mean_x: Tensor, mean_y: Tensor, xx: Tensor, yy: Tensor, xy: Tensor) -> Tensor:
    """SSIM from the blurs of x, y, x², y² and xy, [n, C, h, w] each; [n]."""
    luminance = (2 * mean_x * mean_y + SSIM_K1**2) / (mean_x**2 + mean_y**2 + SSIM_K1**2)
    structure = (2 * (xy - mean_x * mean_y) + SSIM_K2**2) / (xx - mean_x**2 + yy - mean_y**2 + SSIM_K2**2)
    return (luminance * structure).flatten(1).mean(dim=1)


def _gaussian_band(num_outputs: int) -> Tensor:
    """[num_outputs, num_outputs + 10]: row i holds the normalised gaussian window at columns i … i + 10."""
    offsets = torch.arange(SSIM_WINDOW, dtype=torch.float32) - SSIM_WINDOW // 2
    window = torch.exp(-(offsets**2) / (2 * SSIM_SIGMA**2))
    band = torch.zeros(num_outputs, num_outputs + SSIM_WINDOW - 1)
    for row in range(num_outputs):
        band[row, row : row + SSIM_WINDOW] = window / window.sum()
    return band


def _gaussian_blur(x: Tensor) -> Tensor:
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
