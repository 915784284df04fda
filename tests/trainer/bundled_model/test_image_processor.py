"""The preprocessing that is stored beside the bundled classifier and CLIP model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from neuroimagen.trainer.bundled_model.image_processor import write_image_processor
from neuroimagen.trainer.bundled_model.location import bundled_model_path
from neuroimagen.trainer.bundled_model.training_stimuli import SIZE_PX


def test_transformers_reads_it_and_gives_the_values_of_training(tmp_path: Path) -> None:
    from transformers import CLIPImageProcessorPil

    write_image_processor(tmp_path)
    processor = CLIPImageProcessorPil.from_pretrained(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    found = processor(images=Image.fromarray(pixels), return_tensors="pt").pixel_values[0]
    expected = torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1
    assert torch.allclose(found, expected, atol=1e-6)
    wide = processor(images=Image.new("RGB", (200, 100)), return_tensors="pt").pixel_values
    assert wide.shape == (1, 3, SIZE_PX, SIZE_PX)


@pytest.mark.parametrize("component", ["clip", "classifier"])
def test_the_components_that_ship_have_it(component: str, tmp_path: Path) -> None:
    write_image_processor(tmp_path)
    shipped = bundled_model_path() / component / "preprocessor_config.json"
    assert shipped.read_bytes() == (tmp_path / shipped.name).read_bytes()
