"""Types of NumPy arrays that annotations name."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]
Images = NDArray[np.uint8]
"""RGB images, [N, 3, H, W] in 0..255."""
