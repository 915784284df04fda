"""CLIP's image tower: where it is found, and its numbers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from neuroimagen.data_shards.frozen_models.towers.clip import ClipImageTower


@pytest.fixture
def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (40 + 9 * n, 50, 3), dtype=np.uint8)) for n in range(3)]


def test_it_is_found_in_a_model_folder_and_in_a_bare_one(tiny_diffusion_folder: Path, tmp_path: Path) -> None:
    tower = ClipImageTower()
    bare = shutil.copytree(tiny_diffusion_folder / "clip", tmp_path / "bare-clip")
    inside, alone = tower.identity(tiny_diffusion_folder), tower.identity(bare)
    assert (inside.shape, inside.revision) == (alone.shape, alone.revision)
    assert (inside.model_id, alone.model_id) == ("tiny-diffusion", "bare-clip")
    assert tower.missing(bare) is None
    for folder in (tmp_path, tmp_path / "nowhere", tiny_diffusion_folder / "text_encoder"):
        reason = tower.missing(folder)
        assert reason == f"{folder} holds no CLIP model with an image tower, and neither does its clip/ folder"


def test_embeddings_are_those_of_transformers(tiny_diffusion_folder: Path, images: list[Image.Image]) -> None:
    from transformers import CLIPImageProcessorPil, CLIPModel

    clip = tiny_diffusion_folder / "clip"
    encoder = ClipImageTower().load(tiny_diffusion_folder, device=torch.device("cpu"))
    pixels = encoder.pixels(images)
    expected = CLIPImageProcessorPil.from_pretrained(clip)(images=images, return_tensors="pt").pixel_values
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
