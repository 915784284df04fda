"""Pearson correlation of every image with every stimulus, in pixels or in features of a network."""

import numpy as np
import torch
from torch.nn import functional as F

from neuroimagen.data_shards.common.arrays import Floats, Images

PIXEL_IDENTIFICATION_SIZE = 64


def unit_range(images: Images) -> torch.Tensor:
    """uint8 images in 0..255 → float32 in 0..1."""
    return torch.from_numpy(np.ascontiguousarray(images)).to(torch.float32) / 255.0


def shrink(images: Images, size_px: int = PIXEL_IDENTIFICATION_SIZE) -> Floats:
    """Images as flat float32 [N, 3·size²], area-averaged to `size_px`: the features of identification in pixels."""
    resized = F.interpolate(unit_range(images), size=(size_px, size_px), mode="area")
    return resized.flatten(1).numpy()


def standardise(features: Floats | Images) -> Floats:
    """Rows centred and scaled to unit norm, float32 [N, D]; a constant row becomes zeros (correlation 0)."""
    centred = features.astype(np.float32) - features.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.divide(centred, norms, out=np.zeros_like(centred), where=norms > 1e-6)


def correlation_matrix(features: Floats, candidates: Floats) -> Floats:
    """Pearson correlation of every row with every candidate: [N, D], [S, D] → [N, S]."""
    return standardise(features) @ standardise(candidates).T


def check_pairs(images: Images, references: Images) -> None:
    """Raise ValueError unless both are RGB images [N, 3, H, W] of the same size."""
    if images.shape != references.shape or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"pairs of images must both be [N, 3, H, W], got {images.shape} and {references.shape}")
