"""CLIP's image tower: where it is found, and its numbers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from neuroimagen.data_shards.frozen_models.towers.clip import ClipImageTower
from neuroimagen.data_shards.frozen_models.towers.config import TowerConfig

CPU = torch.device("cpu")


def test_it_is_found_in_a_model_folder_and_in_a_bare_one(tiny_diffusion_folder: Path, tmp_path: Path) -> None:
    tower = ClipImageTower()
    bare = shutil.copytree(tiny_diffusion_folder / "clip", tmp_path / "bare-clip")
    inside, alone = tower.identity(tiny_diffusion_folder), tower.identity(bare)
    assert (inside.shape, inside.revision) == (alone.shape, alone.revision)
    assert (inside.model_id, alone.model_id) == ("tiny-diffusion", "bare-clip")
    assert tower.missing(bare) is None
    for folder in (tmp_path, tmp_path / "nowhere", tiny_diffusion_folder / "text_encoder"):
        reason = tower.missing(folder)
        said = f"{folder} holds no CLIP model with an image tower, and neither does its clip/ or image_encoder/ folder"
        assert reason == said


def test_embeddings_are_those_of_transformers(tiny_diffusion_folder: Path, noise_images: list[Image.Image]) -> None:
    from transformers import CLIPImageProcessorPil, CLIPModel

    clip = tiny_diffusion_folder / "clip"
    encoder = ClipImageTower().load(tiny_diffusion_folder, device=torch.device("cpu"))
    pixels = encoder.pixels(noise_images)
    expected = CLIPImageProcessorPil.from_pretrained(clip)(images=noise_images, return_tensors="pt").pixel_values
    assert torch.equal(pixels, expected)
    with torch.no_grad():
        embeddings = CLIPModel.from_pretrained(clip).get_image_features(pixel_values=expected)
    embeddings = getattr(embeddings, "pooler_output", embeddings)
    torch.testing.assert_close(encoder.encode(pixels), embeddings, rtol=1e-5, atol=1e-6)


def test_another_preprocessing_is_another_revision(tiny_diffusion_folder: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(tiny_diffusion_folder / "clip", tmp_path / "clip")
    before = ClipImageTower().identity(bare).revision
    path = bare / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_mean": [0.0, 0.0, 0.0]}))
    assert ClipImageTower().identity(bare).revision != before


@pytest.mark.parametrize("kind", ["clip-vision", "clip-plain"])
def test_the_image_tower_alone_is_that_of_transformers(
    tiny_tower: Callable[[str], Path], noise_images: list[Image.Image], kind: str
) -> None:
    from transformers import CLIPImageProcessorPil, CLIPVisionModel, CLIPVisionModelWithProjection

    folder, square = tiny_tower(kind), {"height": 32, "width": 32}
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=square)  # the folder has none
    pixels = processor(images=noise_images, return_tensors="pt").pixel_values
    projected = kind == "clip-vision"
    model = (CLIPVisionModelWithProjection if projected else CLIPVisionModel).from_pretrained(folder).eval()
    vision = getattr(model, "vision_model", model)
    with torch.no_grad():
        output = vision(pixel_values=pixels, output_hidden_states=True)
        normed = vision.post_layernorm(output.last_hidden_state)
        expected = {
            TowerConfig(pool="cls"): output.pooler_output,
            TowerConfig(pool="mean"): normed[:, 1:].mean(1),
            TowerConfig(layer=0.67): output.hidden_states[2][:, 0],
            TowerConfig(layer=1.0, pool="mean"): output.last_hidden_state[:, 1:].mean(1),
        }
        if projected:
            expected[TowerConfig()] = model(pixel_values=pixels).image_embeds
    for config, embeddings in expected.items():
        tower = ClipImageTower().configured(config, name="image")
        assert tower.missing(folder) is None
        encoder = tower.load(folder, device=CPU)
        assert torch.equal(encoder.pixels(noise_images), pixels)
        torch.testing.assert_close(encoder.encode(pixels), embeddings, rtol=1e-5, atol=1e-5)
        assert tower.identity(folder).shape == embeddings.shape[1:]


def test_unclip_s_image_encoder_has_its_preprocessing_beside_it(
    tiny_tower: Callable[[str], Path], tiny_diffusion_folder: Path, tmp_path: Path
) -> None:
    model = tmp_path / "unclip"
    shutil.copytree(tiny_tower("clip-vision"), model / "image_encoder")
    tower = ClipImageTower()
    without = tower.identity(model)
    assert without.preprocessing["processor"] == "CLIP's, 32 px"
    (model / "feature_extractor").mkdir()
    settings = json.loads((tiny_diffusion_folder / "clip" / "preprocessor_config.json").read_text())
    (model / "feature_extractor" / "preprocessor_config.json").write_text(
        json.dumps(settings | {"image_mean": [0] * 3})
    )
    beside = tower.identity(model)
    assert beside.preprocessing["processor"] == "the model's preprocessor_config.json"
    assert beside.revision != without.revision
    black = Image.new("RGB", (32, 32))
    assert torch.equal(tower.load(model, device=CPU).pixels([black]), torch.zeros(1, 3, 32, 32))


def test_an_input_of_another_size_has_interpolated_positions(
    tiny_tower: Callable[[str], Path], noise_images: list[Image.Image]
) -> None:
    from transformers import CLIPVisionModelWithProjection

    folder = tiny_tower("clip-vision")
    encoder = ClipImageTower().configured(TowerConfig(size_px=48), name="image").load(folder, device=CPU)
    pixels = encoder.pixels(noise_images)
    assert pixels.shape[-2:] == (48, 48)
    with torch.no_grad():
        model = CLIPVisionModelWithProjection.from_pretrained(folder).eval()
        expected = model(pixel_values=pixels, interpolate_pos_encoding=True).image_embeds
    torch.testing.assert_close(encoder.encode(pixels), expected, rtol=1e-5, atol=1e-5)
