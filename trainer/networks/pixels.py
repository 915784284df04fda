"""Images as bytes and as networks take them."""

import numpy as np
import torch
from torch import Tensor


def from_uint8(images: Tensor) -> Tensor:
    """Images in 0..255, of any dtype and shape → float32 in [-1, 1]."""
    return (images / 127.5 - 1.0).float()


def to_uint8(images: Tensor) -> np.ndarray:
    """Images in [-1, 1] → uint8 in 0..255, rounded; what lies outside is clipped."""
    return ((images.clamp(-1.0, 1.0) + 1.0) * 127.5).round().to("cpu", torch.uint8).numpy()
