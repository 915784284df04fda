"""SigLIP, both towers and the image tower alone, against transformers' own forward."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from neuroimagen.data_shards.frozen_models.towers.config import TowerConfig
from neuroimagen.data_shards.frozen_models.towers.siglip import SiglipTower


@pytest.mark.parametrize("kind", ["siglip", "siglip-vision"])
def test_embeddings_are_those_of_transformers(
    tiny_tower: Callable[[str], Path], noise_images: list[Image.Image], kind: str
) -> None:
    from transformers import SiglipImageProcessorPil, SiglipModel, SiglipVisionModel

    folder = tiny_tower(kind)
    model = (SiglipModel if kind == "siglip" else SiglipVisionModel).from_pretrained(folder).eval()
    vision = model.vision_model if kind == "siglip" else model
    pixels = SiglipImageProcessorPil.from_pretrained(folder)(images=noise_images, return_tensors="pt").pixel_values
    with torch.no_grad():
        output = vision(pixel_values=pixels, output_hidden_states=True)
        if kind == "siglip":
            features = model.get_image_features(pixel_values=pixels)
            assert torch.equal(getattr(features, "pooler_output", features), output.pooler_output)
        large = torch.nn.functional.interpolate(pixels, size=48)
        of_large = vision(pixel_values=large, interpolate_pos_encoding=True).pooler_output
    expected = {
        TowerConfig(): output.pooler_output,
        TowerConfig(pool="mean"): output.last_hidden_state.mean(1),
        TowerConfig(layer=0.67): output.hidden_states[2].mean(1),
        TowerConfig(layer=1.0): output.hidden_states[3].mean(1),
    }
    for config, embeddings in expected.items():
        tower = SiglipTower().configured(config, name="siglip")
        encoder = tower.load(folder, device=torch.device("cpu"))
        assert torch.equal(encoder.pixels(noise_images), pixels)
        torch.testing.assert_close(encoder.encode(pixels), embeddings, rtol=1e-5, atol=1e-5)
        assert tower.identity(folder).shape == embeddings.shape[1:]
    encoder = SiglipTower().load(folder, device=torch.device("cpu"))
    torch.testing.assert_close(encoder.encode(large), of_large, rtol=1e-5, atol=1e-5)
