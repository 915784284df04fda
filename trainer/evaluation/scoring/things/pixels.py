"""What THINGS papers compute from pixels alone: Pearson correlation in RGB and SSIM in grey, at 425 px."""

import torch
from torch.nn import functional as F

from neuroimagen.data_shards.common.arrays import Floats, Images, Integers
from neuroimagen.trainer.evaluation.scoring.correlation import check_pairs, standardise, unit_range
from neuroimagen.trainer.evaluation.scoring.structural_similarity import ssim_of_values

FIRST_PX = 256
"""The side to which the protocol brings every image before anything else."""
PIXELS_PX = 425
_GREY = (0.2125, 0.7154, 0.0721)
"""Luminance weights of scikit-image's rgb2gray (ITU-R BT.709)."""
_BATCH = 16


def resized(images: Images, size_px: int, *, device: str = "cpu") -> torch.Tensor:
    """uint8 RGB images [n, 3, H, W] → float32 in 0..1, [n, 3, size_px, size_px], by way of 256 × 256.

    Bilinear, with antialiasing where an image shrinks: the default of torchvision's Resize since version 0.17.
    """
    pixels = unit_range(images).to(device)
    for side in (FIRST_PX, size_px):
        pixels = F.interpolate(pixels, size=(side, side), mode="bilinear", antialias=True)
    return pixels


def pixel_figures(images: Images, references: Images, columns: Integers) -> dict[str, Floats]:
    """PixCorr ("pixcorr", RGB) and SSIM ("ssim", grey) at 425 px of images [N, 3, H, W] with references[columns], [N].

    A constant image has PixCorr 0.
    """
    correlations, similarities = [], []
    for start in range(0, len(images), _BATCH):
        pair = images[start : start + _BATCH], references[columns[start : start + _BATCH]]
        check_pairs(*pair)
        x, y = (resized(part, PIXELS_PX) for part in pair)
        a, b = (torch.from_numpy(standardise(pixels.flatten(1).numpy())) for pixels in (x, y))
        correlations.append((a.double() * b.double()).sum(dim=1))
        similarities.append(ssim_of_values(_grey(x), _grey(y)))
    if not len(images):
        return {name: torch.zeros(0).double().numpy() for name in ("pixcorr", "ssim")}
    return {"pixcorr": torch.cat(correlations).numpy(), "ssim": torch.cat(similarities).double().numpy()}


def _grey(pixels: torch.Tensor) -> torch.Tensor:
    """[n, 3, H, W] → [n, 1, H, W]."""
    return (pixels * torch.tensor(_GREY)[:, None, None]).sum(dim=1, keepdim=True)
