"""Pictures as bytes and as the networks have them."""

import numpy as np
import torch
from torch import Tensor


def from_uint8(pictures: Tensor) -> Tensor:
    """Values in 0..255 → float32 in [-1, 1]."""
    return (pictures / 127.5 - 1.0).float()


def to_uint8(pictures: Tensor) -> np.ndarray:
    """Pictures in [-1, 1] → uint8 in 0..255, rounded."""
    return ((pictures.clamp(-1.0, 1.0) + 1.0) * 127.5).round().to("cpu", torch.uint8).numpy()
