"""Images for image towers."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def noise_images() -> list[Image.Image]:
    """Three images of different sizes, none of them square."""
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (40 + 9 * n, 50, 3), dtype=np.uint8)) for n in range(3)]
