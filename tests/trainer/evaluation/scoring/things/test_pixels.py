"""PixCorr and SSIM of the protocol against Pillow, NumPy and scikit-image."""

import numpy as np
import torch
from PIL import Image
from skimage.color import rgb2gray
from skimage.metrics import structural_similarity
from smooth_images import random_images

from neuroimagen.trainer.evaluation.scoring.things.pixels import pixel_figures, resized


def by_pillow(images: np.ndarray, *sides: int) -> np.ndarray:
    """Float images 0..1, [n, 3, s, s], resized channel by channel in Pillow's 32-bit mode, which antialiases."""
    found = []
    for image in images:
        channels = [Image.fromarray(channel.astype(np.float32) / 255) for channel in image]
        for side in sides:
            channels = [channel.resize((side, side), Image.Resampling.BILINEAR) for channel in channels]
        found.append(np.stack([np.asarray(channel) for channel in channels]))
    return np.stack(found)


def test_images_are_brought_to_256_px_and_then_to_their_size() -> None:
    small, large = random_images(0, num=2, height=64, width=48), random_images(1, num=1, height=300, width=300)
    for images in (small, large):
        for side in (425, 224):
            np.testing.assert_allclose(resized(images, side).numpy(), by_pillow(images, 256, side), atol=1e-4)
    assert not np.allclose(resized(small, 224).numpy(), by_pillow(small, 224), atol=1e-3)
    same = random_images(2, num=1, height=256, width=256)
    torch.testing.assert_close(resized(same, 256), torch.from_numpy(same) / 255)


def test_the_figures_are_those_of_the_papers_script() -> None:
    references = random_images(3, num=4, height=64, width=64)
    noise = np.random.default_rng(0).integers(-30, 30, references.shape)
    images = np.clip(references.astype(int) + noise, 0, 255).astype(np.uint8)[[0, 1, 2]]
    images[2] = 90
    columns = np.array([0, 3, 1])
    figures = pixel_figures(images, references, columns)
    x, y = by_pillow(images, 256, 425), by_pillow(references[columns], 256, 425)
    with np.errstate(invalid="ignore", divide="ignore"):
        correlations = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(figures["pixcorr"], [*correlations[:2], 0], atol=1e-5)
    grey = [rgb2gray(pixels.transpose(0, 2, 3, 1)) for pixels in (x, y)]
    settings = {"data_range": 1.0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = [structural_similarity(a, b, **settings) for a, b in zip(*grey, strict=True)]
    np.testing.assert_allclose(figures["ssim"], expected, atol=2e-5)
    nothing = pixel_figures(images[:0], references, columns[:0])
    assert [len(values) for values in nothing.values()] == [0, 0]
