"""Random images that are smooth, as real ones are."""

import numpy as np
import torch


def random_images(seed: int, num: int = 5, height: int = 23, width: int = 31) -> np.ndarray:
    """Smooth random images, so that SSIM is neither 0 nor 1."""
    rng = np.random.default_rng(seed)
    noise = torch.from_numpy(rng.normal(size=(num, 3, height // 4 + 2, width // 4 + 2)))
    smooth = torch.nn.functional.interpolate(noise, size=(height, width), mode="bilinear")
    return (torch.sigmoid(2 * smooth) * 255).round().to(torch.uint8).numpy()
