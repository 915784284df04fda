"""Decoding JPEG and PNG, and cutting the centre square."""

import io

import numpy as np
import pytest
from PIL import Image

from neuroimagen.data_shards.format.images import decode, decode_image, square_image


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


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_stand_upright(image_format: str, orientation: int) -> None:
    """The eight EXIF orientations, by what the standard says of the first row and the first column."""
    rows_columns = {1: "TL", 2: "TR", 3: "BR", 4: "BL", 5: "LT", 6: "RT", 7: "RB", 8: "LB"}[orientation]
    upright = np.arange(8 * 16 * 3, dtype=np.uint8).reshape(8, 16, 3) // 16 * 16  # blocks, so that JPEG keeps sides
    upright[:4] //= 2
    stored = upright if rows_columns[0] in "TB" else upright.transpose(1, 0, 2)
    stored = stored[::-1] if rows_columns[0] in "BR" else stored
    stored = stored[:, ::-1] if rows_columns[1] in "BR" else stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(image_format, {})
    Image.fromarray(np.ascontiguousarray(stored)).save(buffer, image_format, exif=exif, **options)
    decoded = decode(buffer.getvalue(), formats=(image_format,))
    assert np.abs(np.asarray(decoded.image).astype(int) - upright).max() <= (5 if image_format == "JPEG" else 0)
    if image_format != "TIFF":  # PIL turns these itself, and they are stored as PNG anyway
        assert decoded.changes == (() if orientation == 1 else ("turned as the EXIF orientation says",))


def test_a_damaged_exif_block_is_none() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "JPEG", exif=b"Exif\0\0neither MM nor II")
    assert decode(buffer.getvalue()).changes == ()


@pytest.mark.parametrize(
    ("values", "image_format", "expected"),
    [
        (np.array([[0, 257, 32768, 65535]], dtype=np.uint16), "PNG", [0, 1, 128, 255]),
        (np.array([[0, 257, 32768, 65535]], dtype=np.uint16), "TIFF", [0, 1, 128, 255]),
        (np.array([[0, 7, 255]], dtype=np.int32), "TIFF", [0, 7, 255]),
        (np.array([[0, 257, 65535]], dtype=np.int32), "TIFF", [0, 1, 255]),
        (np.array([[0, 2**31 - 1]], dtype=np.int32), "TIFF", [0, 255]),
        (np.array([[0.0, 0.5, 1.0]], dtype=np.float32), "TIFF", [0, 128, 255]),
        (np.array([[0.0, 63.6, 255.0]], dtype=np.float32), "TIFF", [0, 64, 255]),
    ],
)
def test_deep_greys_are_scaled_by_their_range(values: np.ndarray, image_format: str, expected: list[int]) -> None:
    decoded = decode(encoded(values, image_format), formats=(image_format,))
    assert np.asarray(decoded.image).tolist() == [[[value] * 3 for value in expected]]
    assert decoded.changes[0].startswith("scaled from 0..")


@pytest.mark.parametrize("values", [[0.0, np.nan], [-1.0, 1.0], [0.0, 256.0], [np.inf, 0.0]])
def test_values_that_are_no_brightness_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="save it with 8 bits"):
        decode(encoded(np.array([values], dtype=np.float32), "TIFF"), formats=("TIFF",))


def test_twelve_bits_in_sixteen_are_remarked() -> None:
    assert "nearly black" in decode(encoded(np.full((2, 2), 4095, dtype=np.uint16))).remarks[0]
    assert decode(encoded(np.full((2, 2), 40_000, dtype=np.uint16))).remarks == ()


def test_transparent_parts_are_white_whatever_colour_they_hide() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 4), dtype=np.uint8)
    pixels[..., 3] = [0, 51, 204, 255]
    share = pixels[..., 3:] / 255
    expected = pixels[..., :3] * share + 255 * (1 - share)
    for name, shown in (("RGBA", expected), ("LA", None)):
        picture = Image.fromarray(pixels).convert(name) if name == "LA" else Image.fromarray(pixels)
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        decoded = decode(buffer.getvalue())
        assert decoded.changes == ("transparent parts made white",)
        if shown is not None:
            assert np.abs(np.asarray(decoded.image) - shown).max() <= 1
        assert (np.asarray(decoded.image)[:, 0] == 255).all()
    palette = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), mode="L").convert("P")
    buffer = io.BytesIO()
    palette.save(buffer, "PNG", transparency=0)
    assert np.asarray(decode(buffer.getvalue()).image).tolist() == [[[255] * 3, [1] * 3]]
    opaque = decode(encoded(np.dstack([pixels[..., :3], np.full((4, 4), 255, dtype=np.uint8)])))
    assert opaque.changes == ()
    assert np.array_equal(np.asarray(opaque.image), pixels[..., :3])


def test_inks_become_colours_and_it_is_said() -> None:
    buffer = io.BytesIO()
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(buffer, "JPEG", quality=100)
    decoded = decode(buffer.getvalue())
    assert decoded.changes == ("converted from CMYK to RGB, without a colour profile",)
    assert np.abs(np.asarray(decoded.image)[4, 4].astype(int) - (255, 0, 0)).max() <= 4


def test_colour_profiles_are_not_applied_and_others_than_srgb_are_remarked() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    for profile, remarks in ((b"... sRGB IEC61966-2.1 ...", 0), ("sRGB".encode("utf-16-be"), 0), (b"Adobe RGB", 1)):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", icc_profile=profile)
        decoded = decode(buffer.getvalue())
        assert (len(decoded.remarks), decoded.changes) == (remarks, ())
        assert np.array_equal(np.asarray(decoded.image), pixels)


def test_too_many_pixels_and_frames_are_refused_before_they_are_decoded() -> None:
    with pytest.raises(ValueError, match=r"20 × 30 pixels; at most 0 million are read"):
        decode(encoded(np.zeros((30, 20, 3), dtype=np.uint8)), max_pixels=599)
    assert decode(encoded(np.zeros((30, 20, 3), dtype=np.uint8)), max_pixels=600).image.size == (20, 30)
