"""Views: what an image goes through before an image tower encodes it.

The centre square of the image is resized to S×S first. Sizes in px are those at S = 224, as in the papers, and grow
with S. fovea is UBP's; the four others and their embeddings' mean are NeuroBridge's.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image

from neuroimagen.data_shards.format.images import square_image

REFERENCE_PX = 224
FOVEA_KERNEL_PX = 51
BLUR_KERNEL_PX = 15
NOISE_STD = 25.0
"""Of the noise, where colours go from 0 to 255."""
LOW_RESOLUTION_SCALE = 0.5
MOSAIC_PX = 16


def gaussian_blur(pixels: np.ndarray, kernel_px: int) -> np.ndarray:
    """Blur [S, S, 3] by a Gaussian of `kernel_px` taps at S = 224, with OpenCV's standard deviation and border.

    σ = 0.3 ((k − 1) / 2 − 1) + 0.8: 8.0 for 51 taps; beyond the border the image is mirrored. float32 [S, S, 3].
    """
    from scipy.ndimage import gaussian_filter

    scale = len(pixels) / REFERENCE_PX
    sigma = (0.3 * ((kernel_px - 1) / 2 - 1) + 0.8) * scale
    radius = max(1, round(kernel_px // 2 * scale))
    blurred: np.ndarray = gaussian_filter(
        pixels.astype(np.float32), sigma=(sigma, sigma, 0), radius=(radius, radius, 0), mode="mirror"
    )
    return blurred


def fovea(pixels: np.ndarray, key: str) -> np.ndarray:
    """Blur that grows with the distance from the centre: pixels · m + blurred · (1 − m), m = 0.5 · exp(−3 r / r_max).

    r_max is the distance of the last corner.
    """
    size = len(pixels)
    offset = np.arange(size) - size // 2
    distance = np.hypot(offset[:, None], offset[None, :])
    relative = np.minimum(1, distance / (np.sqrt(2) * max(1, size - size // 2 - 1)))
    sharp = (0.5 * np.exp(-3 * relative))[..., None]
    return pixels * sharp + gaussian_blur(pixels, FOVEA_KERNEL_PX) * (1 - sharp)


def blur(pixels: np.ndarray, key: str) -> np.ndarray:
    """A Gaussian blur, the same everywhere."""
    return gaussian_blur(pixels, BLUR_KERNEL_PX)


def noise(pixels: np.ndarray, key: str) -> np.ndarray:
    """Gaussian noise on every colour of every pixel, decided by the stimulus's key."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    return pixels + NOISE_STD * np.random.default_rng(seed).standard_normal(pixels.shape)


def low_resolution(pixels: np.ndarray, key: str) -> np.ndarray:
    """Half the resolution, and back by bilinear interpolation."""
    size = len(pixels)
    small = max(1, int(size * LOW_RESOLUTION_SCALE))
    image = Image.fromarray(pixels).resize((small, small), Image.Resampling.BILINEAR)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def mosaic(pixels: np.ndarray, key: str) -> np.ndarray:
    """Blocks of one colour, the mean of their pixels: 14 × 14 of them."""
    size, blocks = len(pixels), REFERENCE_PX // MOSAIC_PX
    image = Image.fromarray(pixels).resize((blocks, blocks), Image.Resampling.BOX)
    return np.asarray(image.resize((size, size), Image.Resampling.NEAREST))


_FOUR = {"blur": blur, "noise": noise, "low-resolution": low_resolution, "mosaic": mosaic}
_FUNCTIONS: Mapping[str, Mapping[str, Callable[[np.ndarray, str], np.ndarray]]] = {
    "fovea": {"fovea": fovea},
    **{name: {name: function} for name, function in _FOUR.items()},
    "mean-of-four": _FOUR,
}
"""View → the images of which the embeddings' mean is taken."""

_SETTINGS: Mapping[str, Any] = {
    "fovea": {"kernel_px": FOVEA_KERNEL_PX, "sharp": "0.5 exp(-3 r / r_max)"},
    "blur": {"kernel_px": BLUR_KERNEL_PX},
    "noise": {"std": NOISE_STD, "seed": "stimulus"},
    "low-resolution": {"scale": LOW_RESOLUTION_SCALE},
    "mosaic": {"block_px": MOSAIC_PX},
}


def view_settings(view: str, size_px: int) -> dict[str, Any]:
    """Everything that decides a view, for the identity of what is made of it."""
    parts = {name: _SETTINGS[name] for name in _FUNCTIONS[view]}
    return {"name": view, "size_px": size_px, "at_px": REFERENCE_PX, "parts": parts}


def viewed(image: Image.Image, key: str, *, view: str, size_px: int) -> list[Image.Image]:
    """The images that a view makes of an RGB image of any size, each S×S; the mean of their embeddings is the view's.

    key: of the stimulus.
    """
    pixels = np.ascontiguousarray(square_image(image, size_px).transpose(1, 2, 0))
    made = [function(pixels, key) for function in _FUNCTIONS[view].values()]
    return [Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8)) for values in made]
