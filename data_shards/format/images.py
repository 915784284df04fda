"""Images as they come and as they lie in a shard, and the square arrays that networks read.

Every image goes through `decode`, when it is stored and when it is read. Colour profiles (ICC) are not applied:
software that shows stimuli and the usual preprocessing of image networks don't apply them either.
"""

import dataclasses
import io
import struct
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from neuroimagen.data_shards.common.limits import MAX_IMAGE_PIXELS

BACKGROUND = (255, 255, 255)
"""White: what shows through the transparent parts of an image."""
STORED_FORMATS = ("JPEG", "PNG")
_ORIENTATION = 0x0112
"""The EXIF tag."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodedImage:
    """An image in RGB, and how it differs from what a reader without this module's rules would see."""

    image: Image.Image
    changes: tuple[str, ...]
    """What was done to its pixels, as predicates: "turned as its EXIF orientation says". Empty for most images."""
    remarks: tuple[str, ...]
    """What looks odd and was left as it is."""


def decode(
    content: bytes | memoryview, *, formats: Sequence[str] = STORED_FORMATS, max_pixels: int = MAX_IMAGE_PIXELS
) -> DecodedImage:
    """Decode an image: turned upright, 8 bits, RGB, on a white background.

    formats: as PIL names them. max_pixels: largest width × height, checked before any pixel is decoded. Raises OSError
    or ValueError when the bytes are of no such format, are cut short, have more pixels or more than one frame, or hold
    values that are no brightness.
    """
    try:
        with Image.open(io.BytesIO(content), formats=tuple(formats)) as image:
            if image.width * image.height > max_pixels:
                raise ValueError(
                    f"{image.width} × {image.height} pixels; at most {max_pixels / 1e6:.0f} million are read, so make "
                    "it smaller"
                )
            # The frames of MPO are views or previews of one photograph, the first is the photograph.
            if image.format != "MPO" and (frames := getattr(image, "n_frames", 1)) > 1:
                raise ValueError(f"{frames} frames; a stimulus is one image")
            return _upright_rgb(image)
    except (OSError, ValueError):
        raise
    except Exception as error:  # a damaged header raises whatever PIL's reader of that format meets
        raise ValueError(f"it is damaged ({type(error).__name__}: {error})") from error


def decode_image(content: bytes | memoryview) -> Image.Image:
    """Decode JPEG or PNG bytes to an RGB image, by the rules of `decode`.

    Raises OSError or ValueError when the bytes are neither, are cut short, or decode to an image of a size that only a
    decompression bomb has.
    """
    return decode(content).image


def png_bytes(image: Image.Image) -> bytes:
    """The image as a PNG file, without metadata."""
    buffer = io.BytesIO()
    # A new image: what PIL carries along (EXIF, colour profile, transparency) would be applied a second time.
    Image.fromarray(np.asarray(image)).save(buffer, "PNG")
    return buffer.getvalue()


def square_image(image: Image.Image, size_px: int) -> np.ndarray:
    """RGB image → uint8 [3, size_px, size_px]: centre crop to a square, then Lanczos if the size differs."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    if side != size_px:
        image = image.resize((size_px, size_px), Image.Resampling.LANCZOS, box=box)
    else:
        image = image.crop(box)
    return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))


def _upright_rgb(image: Image.Image) -> DecodedImage:
    changes: list[str] = []
    remarks: list[str] = []
    if _has_other_profile(image.info.get("icc_profile")):
        remarks.append("have a colour profile other than sRGB, which is not applied")
    image.load()
    upright = _upright(image)
    if upright is not image:
        image = upright
        changes.append("turned as the EXIF orientation says")
    if image.mode.startswith(("I", "F")):
        image, scaling, remark = _eight_bits(image)
        changes.append(scaling)
        remarks += remark
    elif image.mode not in ("1", "L", "P", "RGB", "LA", "PA", "La", "RGBA", "RGBa", "RGBX"):
        changes.append(f"converted from {image.mode} to RGB, without a colour profile")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            image = Image.alpha_composite(Image.new("RGBA", image.size, (*BACKGROUND, 255)), image)
            changes.append("transparent parts made white")
    return DecodedImage(image=image.convert("RGB"), changes=tuple(changes), remarks=tuple(remarks))


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says; itself if it is upright or its EXIF block is damaged."""
    try:
        turned = image.getexif().get(_ORIENTATION, 1) in range(2, 9)
    except (SyntaxError, ValueError, KeyError, struct.error):
        return image
    return ImageOps.exif_transpose(image) if turned else image


def _eight_bits(image: Image.Image) -> tuple[Image.Image, str, list[str]]:
    """A grey image of 16-bit, 32-bit or floating-point values in 8 bits: image, what was done, what looks odd.

    16-bit values are scaled by the range of their type. A 32-bit type does not say which range is meant: integers are
    scaled by the least of 0..255, 0..65535 and 0..2147483647 that holds them, floating-point values by 0..1 or 0..255.
    """
    values = np.asarray(image)
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not (np.isfinite(low) and np.isfinite(high)) or low < 0:
        raise ValueError(f"brightness from {low:g} to {high:g}; save it with 8 bits, 0 to 255")
    if image.mode.startswith("I;16"):
        top = 65_535.0
    elif image.mode == "F":
        top = 1.0 if high <= 1 else 255.0
    else:
        top = next(float(bound) for bound in (255, 65_535, 2**31 - 1) if high <= bound)
    if high > top:
        raise ValueError(f"brightness from {low:g} to {high:g}; save it with 8 bits, 0 to 255")
    grey = Image.fromarray(np.rint(values.astype(np.float64) * (255 / top)).astype(np.uint8))
    # Cameras that give 10 or 12 bits in 16: the picture is then nearly black, and nothing in the file says so.
    dark = ["use less than an eighth of the range of their 16 bits and are nearly black"] if top * 0.125 > high else []
    return grey, f"scaled from 0..{top:.0f} to 0..255", dark


def _has_other_profile(profile: bytes | None) -> bool:
    """Whether an ICC profile is of another colour space than sRGB, by the name in it (ASCII or UTF-16)."""
    return profile is not None and not any(name in profile for name in (b"sRGB", "sRGB".encode("utf-16-be")))
