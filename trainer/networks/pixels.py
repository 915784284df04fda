"""Images as bytes and as networks take them."""

import numpy as np
import torch
from torch import Tensor

from neuroimagen.data_shards.common.errors import UserError


def from_uint8(images: Tensor) -> Tensor:
    """Images in 0..255, of any dtype and shape → float32 in [-1, 1]."""
    return (images / 127.5 - 1.0).float()


def to_uint8(images: Tensor) -> np.ndarray:
    """Images in [-1, 1], a batch or one → uint8 in 0..255, rounded; what lies outside is clipped.

    Raises UserError for NaN and infinity: they would become black and white, which looks like an image.
    """
    finite = torch.isfinite(images)
    if not finite.all():
        raise UserError(
            f"{images.numel() - int(finite.sum())} of the {images.numel()} values of a batch of images are NaN or "
            "infinite, so they are no image. The weights that made them are damaged or their training diverged, the "
            "guidance is too strong, or float16 is too narrow: set reconstruct.dtype to float32 or bfloat16."
        )
    return ((images.clamp(-1.0, 1.0) + 1.0) * 127.5).round().to("cpu", torch.uint8).numpy()
