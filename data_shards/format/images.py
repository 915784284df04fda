"""Images as they lie in a shard, JPEG or PNG, and the square arrays that networks read."""

import io

import numpy as np
from PIL import Image


def decode_image(content: bytes | memoryview) -> Image.Image:
    """Decode JPEG or PNG bytes to an RGB image.

    Raises OSError or ValueError when the bytes are neither, are cut short, or decode to an image of a size that only a
    decompression bomb has.
    """
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
            return image.convert("RGB")
    except (SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from error


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
