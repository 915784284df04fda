"""Decoding JPEG and PNG, and cutting the centre square."""

import io

import numpy as np
import pytest
from PIL import Image

from neuroimagen.data_shards.format.images import decode_image, square_image


def encoded(pixels: np.ndarray, image_format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format)
    return buffer.getvalue()


def test_png_comes_back_exactly_and_grey_becomes_rgb() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(decode_image(memoryview(encoded(pixels)))), pixels)
    grey = decode_image(encoded(pixels[..., 0]))
    assert grey.mode == "RGB"
    assert np.array_equal(np.asarray(grey)[..., 1], pixels[..., 0])


@pytest.mark.parametrize("damage", ["cut short", "GIF", "empty", "text"])
def test_what_is_neither_is_refused(damage: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = {
        "cut short": encoded(pixels)[:2000],
        "GIF": encoded(pixels, "GIF"),
        "empty": b"",
        "text": b"not an image",
    }[damage]
    with pytest.raises((OSError, ValueError)):
        decode_image(content)


def test_a_decompression_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="decompression bomb"):
        decode_image(encoded(np.zeros((20, 20, 3), dtype=np.uint8)))


@pytest.mark.parametrize(("height", "width"), [(6, 10), (10, 6), (6, 6)])
def test_the_square_is_the_centre(height: int, width: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    top, left = (height - 6) // 2, (width - 6) // 2
    square = square_image(Image.fromarray(pixels), 6)
    assert (square.shape, square.dtype, square.flags.c_contiguous) == ((3, 6, 6), np.uint8, True)
    assert np.array_equal(square, pixels[top : top + 6, left : left + 6].transpose(2, 0, 1))


@pytest.mark.parametrize("size_px", [4, 24])
def test_another_size_is_resampled_from_the_square(size_px: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    expected = image.resize((size_px, size_px), Image.Resampling.LANCZOS, box=(4, 0, 12, 8))
    assert np.array_equal(square_image(image, size_px), np.asarray(expected).transpose(2, 0, 1))
