"""Every registered image tower keeps the contract of towers/base.py."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from neuroimagen.data_shards.frozen_models.encoder import DTYPES, EncoderIdentity
from neuroimagen.data_shards.frozen_models.towers.registry import IMAGE_TOWERS


@pytest.mark.parametrize("name", IMAGE_TOWERS.names())
def test_a_tower_keeps_its_contract(name: str, tiny_diffusion_folder: Path, tmp_path: Path) -> None:
    tower = IMAGE_TOWERS[name]()
    if tower.missing(tmp_path) is None:
        assert tower.identity(tmp_path)  # one that needs no folder
    assert set(tower.check_tolerance) == set(DTYPES)
    assert tower.missing(tiny_diffusion_folder) is None
    identity = tower.identity(tiny_diffusion_folder)
    assert isinstance(identity, EncoderIdentity)
    assert identity == tower.identity(tiny_diffusion_folder)
    assert json.loads(json.dumps(identity.preprocessing)) == identity.preprocessing
    assert identity.revision

    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (30 + n, 45, 3), dtype=np.uint8)) for n in range(3)]
    encoder = tower.load(tiny_diffusion_folder, device=torch.device("cpu"))
    pixels = encoder.pixels(images)
    assert pixels.device.type == "cpu"
    embeddings = encoder.encode(pixels)
    assert embeddings.shape == (3, *identity.shape)
    assert embeddings.dtype == torch.float32
    assert torch.isfinite(embeddings).all()
    assert not torch.equal(embeddings[0], embeddings[1])
    alone = torch.cat([encoder.encode(encoder.pixels([image])) for image in images])
    torch.testing.assert_close(embeddings, alone, rtol=1e-4, atol=1e-5)  # an image's embedding is its own
