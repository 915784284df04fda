"""BLIP's captions: one per image, the same in any batch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.captioner import Captioner

CPU = torch.device("cpu")


def test_captions_do_not_depend_on_the_batch(tiny_blip_folder: Path) -> None:
    captioner = Captioner(tiny_blip_folder, device=CPU)
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)) for _ in range(4)]
    pixels = captioner.pixels(images)
    assert pixels.shape == (4, 3, 32, 32)
    together = captioner.caption(pixels)
    assert together == [captioner.caption(pixels[row : row + 1])[0] for row in range(4)]
    assert all(caption == caption.strip() for caption in together)


def test_a_folder_of_another_model_is_refused(tiny_diffusion_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a CLIP model, not a BLIP captioner"):
        Captioner(tiny_diffusion_folder / "clip", device=CPU)
    with pytest.raises(UserError, match=r"captioner folder .* does not exist"):
        Captioner(tmp_path / "nowhere", device=CPU)
