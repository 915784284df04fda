"""Views against reference computations that share no code with them."""

import numpy as np
import pytest
from PIL import Image

from neuroimagen.data_shards.frozen_models.towers.views import gaussian_blur, view_settings, viewed


@pytest.fixture
def image() -> Image.Image:
    """224 px, smooth and textured, so that every view changes it."""
    rng = np.random.default_rng(3)
    coarse = Image.fromarray(rng.integers(0, 256, (14, 14, 3), dtype=np.uint8)).resize((224, 224))
    texture = rng.integers(-30, 30, (224, 224, 3))
    return Image.fromarray(np.clip(np.asarray(coarse, dtype=int) + texture, 0, 255).astype(np.uint8))


def blurred_by_sums(pixels: np.ndarray, kernel_px: int, sigma: float) -> np.ndarray:
    """OpenCV's GaussianBlur written out: normalised taps, the border mirrored without repeating its pixels."""
    offsets = np.arange(kernel_px) - kernel_px // 2
    taps = np.exp(-(offsets**2) / (2 * sigma**2))
    taps /= taps.sum()
    out = pixels.astype(np.float64)
    for axis in (0, 1):
        pad = [(kernel_px // 2,) * 2 if axis == here else (0, 0) for here in range(3)]
        padded = np.pad(out, pad, mode="reflect")
        size = out.shape[axis]
        out = sum(tap * np.take(padded, np.arange(k, k + size), axis=axis) for k, tap in enumerate(taps))
    return out


def one(image: Image.Image, view: str, *, key: str = "k", size_px: int = 224) -> np.ndarray:
    (made,) = viewed(image, key, view=view, size_px=size_px)
    assert made.mode == "RGB"
    assert made.size == (size_px, size_px)
    return np.asarray(made, dtype=np.float64)


@pytest.mark.parametrize(("kernel_px", "sigma"), [(51, 8.0), (15, 2.6)])
def test_the_blur_is_opencv_s(image: Image.Image, kernel_px: int, sigma: float) -> None:
    pixels = np.asarray(image)
    expected = blurred_by_sums(pixels, kernel_px, sigma)
    assert np.abs(gaussian_blur(pixels, kernel_px) - expected).max() < 1e-3
    assert np.abs(expected - pixels).mean() > 5


def test_fovea_keeps_the_centre_sharp(image: Image.Image) -> None:
    pixels = np.asarray(image, dtype=np.float64)
    blurred = blurred_by_sums(pixels, 51, 8.0)
    expected = np.empty_like(pixels)
    r_max = np.sqrt(2 * (224 - 112 - 1) ** 2)
    for y in range(224):
        for x in range(224):
            r = min(1.0, np.sqrt((y - 112) ** 2 + (x - 112) ** 2) / r_max)
            m = 0.5 * np.exp(-3 * r)
            expected[y, x] = pixels[y, x] * m + blurred[y, x] * (1 - m)
    made = one(image, "fovea")
    assert np.abs(made - expected).max() <= 0.501  # rounded once
    away = np.abs(made - blurred).mean(axis=2)
    assert away[102:122, 102:122].mean() > 5 * away[:20, :20].mean()


def test_blur_and_low_resolution(image: Image.Image) -> None:
    assert np.abs(one(image, "blur") - blurred_by_sums(np.asarray(image), 15, 2.6)).max() <= 0.502
    half = image.resize((112, 112), Image.Resampling.BILINEAR).resize((224, 224), Image.Resampling.BILINEAR)
    assert np.array_equal(one(image, "low-resolution"), np.asarray(half))


def test_mosaic_has_blocks_of_16_px_in_their_mean_colour(image: Image.Image) -> None:
    blocks = np.asarray(image, dtype=np.float64).reshape(14, 16, 14, 16, 3).mean(axis=(1, 3))
    expected = blocks.repeat(16, axis=0).repeat(16, axis=1)
    assert np.abs(one(image, "mosaic") - expected).max() <= 1.01  # rounded along each axis


def test_noise_is_the_stimulus_s_own() -> None:
    grey = Image.new("RGB", (224, 224), (128, 128, 128))
    first = one(grey, "noise", key="n1_0") - 128
    assert np.array_equal(first, one(grey, "noise", key="n1_0") - 128)
    second = one(grey, "noise", key="n1_1") - 128
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.01
    for values in (first, second):
        assert values.mean() == pytest.approx(0, abs=0.3)
        assert values.std() == pytest.approx(25, rel=0.01)


def test_mean_of_four_is_of_the_four_others(image: Image.Image) -> None:
    made = viewed(image, "k", view="mean-of-four", size_px=224)
    expected = [one(image, view) for view in ("blur", "noise", "low-resolution", "mosaic")]
    assert len(made) == 4
    for found, single in zip(made, expected, strict=True):
        assert np.array_equal(np.asarray(found), single)


@pytest.mark.parametrize("view", ["fovea", "blur", "noise", "low-resolution", "mosaic"])
def test_a_view_is_of_the_centre_square_and_scales_with_it(image: Image.Image, view: str) -> None:
    wide = Image.new("RGB", (324, 224), (0, 255, 0))
    wide.paste(image, (50, 0))
    assert np.array_equal(one(wide, view), one(image, view))
    if view in ("fovea", "blur", "mosaic"):  # noise is per pixel, low resolution is relative
        large = one(image.resize((448, 448), Image.Resampling.BICUBIC), view, size_px=448)
        small = large.reshape(224, 2, 224, 2, 3).mean(axis=(1, 3))
        changed = np.abs(one(image, view) - np.asarray(image, dtype=float)).mean()
        assert np.abs(small - one(image, view)).mean() < 0.25 * changed
    assert one(image, view, size_px=32).shape == (32, 32, 3)


def test_settings_say_everything_that_decides_a_view() -> None:
    views = ("fovea", "blur", "noise", "low-resolution", "mosaic", "mean-of-four")
    settings = [view_settings(view, 224) for view in views]
    assert len({str(value) for value in settings}) == len(views)
    assert view_settings("fovea", 256) != settings[0]
    assert set(settings[-1]["parts"]) == {"blur", "noise", "low-resolution", "mosaic"}
