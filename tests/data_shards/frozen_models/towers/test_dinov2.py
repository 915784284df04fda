"""DINOv2, with and without registers, against transformers' own forward."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from neuroimagen.data_shards.frozen_models.towers.config import TowerConfig
from neuroimagen.data_shards.frozen_models.towers.dinov2 import Dinov2Tower


@pytest.mark.parametrize(("kind", "num_registers"), [("dinov2", 0), ("dinov2-registers", 2)])
def test_embeddings_are_those_of_transformers(
    tiny_tower: Callable[[str], Path], noise_images: list[Image.Image], kind: str, num_registers: int
) -> None:
    from transformers import BitImageProcessorPil, Dinov2Model, Dinov2WithRegistersModel

    folder = tiny_tower(kind)
    model = (Dinov2WithRegistersModel if num_registers else Dinov2Model).from_pretrained(folder).eval()
    pixels = BitImageProcessorPil.from_pretrained(folder)(images=noise_images, return_tensors="pt").pixel_values
    with torch.no_grad():
        output = model(pixel_values=pixels, output_hidden_states=True)
    patches = slice(1 + num_registers, None)
    assert output.last_hidden_state.shape[1] == 1 + num_registers + 16
    expected = {
        TowerConfig(): output.pooler_output,
        TowerConfig(pool="mean"): output.last_hidden_state[:, patches].mean(1),
        TowerConfig(layer=0.67): output.hidden_states[2][:, 0],
        TowerConfig(layer=0.67, pool="mean"): output.hidden_states[2][:, patches].mean(1),
        TowerConfig(layer=1.0, pool="mean"): output.hidden_states[3][:, patches].mean(1),
    }
    for config, embeddings in expected.items():
        tower = Dinov2Tower().configured(config, name="dinov2")
        encoder = tower.load(folder, device=torch.device("cpu"))
        assert torch.equal(encoder.pixels(noise_images), pixels)
        torch.testing.assert_close(encoder.encode(pixels), embeddings, rtol=1e-5, atol=1e-5)
        assert tower.identity(folder).shape == tower.shape(folder) == embeddings.shape[1:]


def test_a_larger_input_has_interpolated_positions(
    tiny_tower: Callable[[str], Path], noise_images: list[Image.Image]
) -> None:
    from transformers import BitImageProcessorPil, Dinov2Model

    folder, square = tiny_tower("dinov2"), {"height": 48, "width": 48}
    processor = BitImageProcessorPil.from_pretrained(folder, size={"shortest_edge": 48}, crop_size=square)
    pixels = processor(images=noise_images, return_tensors="pt").pixel_values
    with torch.no_grad():
        output = Dinov2Model.from_pretrained(folder).eval()(pixel_values=pixels)
    assert output.last_hidden_state.shape[1] == 1 + 36
    tower = Dinov2Tower().configured(TowerConfig(size_px=48, pool="mean"), name="dinov2")
    encoder = tower.load(folder, device=torch.device("cpu"))
    found = encoder.encode(encoder.pixels(noise_images))
    torch.testing.assert_close(found, output.last_hidden_state[:, 1:].mean(1), rtol=1e-5, atol=1e-5)
