"""Every registered image tower keeps the contract of towers/base.py."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.encoder import DTYPES, EncoderIdentity
from neuroimagen.data_shards.frozen_models.towers.config import TowerConfig
from neuroimagen.data_shards.frozen_models.towers.registry import IMAGE_TOWERS


@pytest.fixture
def folder_of(tiny_diffusion_folder: Path, tiny_tower: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """folder_of(name of a tower) → a folder that it reads."""

    def folder(name: str) -> Path:
        if name in ("dinov2", "siglip"):
            return tiny_tower(name)
        return write_open_clip(tmp_path / "open-clip") if name == "open-clip" else tiny_diffusion_folder

    return folder


def write_open_clip(folder: Path) -> Path:
    """An OpenCLIP model of one block in open_clip's own layout."""
    from safetensors.torch import save_file

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    generator, block = torch.Generator().manual_seed(0), "visual.transformer.resblocks.0"
    weights = {"visual.class_embedding": random(16), "visual.positional_embedding": random(17, 16)}
    weights |= {"visual.conv1.weight": random(16, 3, 8, 8), "visual.proj": random(16, 6)}
    for norm in ("visual.ln_pre", "visual.ln_post", f"{block}.ln_1", f"{block}.ln_2"):
        weights |= {f"{norm}.weight": torch.ones(16), f"{norm}.bias": torch.zeros(16)}
    weights |= {f"{block}.attn.in_proj_weight": random(48, 16), f"{block}.attn.in_proj_bias": random(48)}
    for layer, rows, columns in (("attn.out_proj", 16, 16), ("mlp.c_fc", 64, 16), ("mlp.c_proj", 16, 64)):
        weights |= {f"{block}.{layer}.weight": random(rows, columns), f"{block}.{layer}.bias": random(rows)}
    folder.mkdir()
    save_file(weights, folder / "open_clip_model.safetensors")
    vision = {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8}
    config = {"model_cfg": {"embed_dim": 6, "vision_cfg": vision}, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("name", IMAGE_TOWERS.names())
def test_a_tower_keeps_its_contract(name: str, folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    tower, own = IMAGE_TOWERS[name](), folder_of(name)
    if tower.missing(tmp_path) is None:
        assert tower.identity(tmp_path)  # one that needs no folder
    assert set(tower.check_tolerance) == set(DTYPES)
    assert tower.missing(own) is None
    identity = tower.identity(own)
    assert isinstance(identity, EncoderIdentity)
    assert identity == tower.identity(own)
    assert json.loads(json.dumps(identity.preprocessing)) == identity.preprocessing
    assert identity.revision
    assert tower.shape(own) == identity.shape
    assert tower.view_px(own) > 0
    accepted = {"layer": 0.5, "pool": "mean", "size_px": 48}
    for key, value in accepted.items():
        if key in tower.accepts:
            chosen = tower.configured(TowerConfig(**{key: value}), name=name)
            assert chosen.identity(own).preprocessing != identity.preprocessing
        else:
            with pytest.raises(UserError, match=f"the image tower {name} has no {key}"):
                tower.configured(TowerConfig(**{key: value}), name=name)

    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (30 + n, 45, 3), dtype=np.uint8)) for n in range(3)]
    encoder = tower.load(own, device=torch.device("cpu"))
    pixels = encoder.pixels(images)
    assert pixels.device.type == "cpu"
    embeddings = encoder.encode(pixels)
    assert embeddings.shape == (3, *identity.shape)
    assert embeddings.dtype == torch.float32
    assert torch.isfinite(embeddings).all()
    assert not torch.equal(embeddings[0], embeddings[1])
    alone = torch.cat([encoder.encode(encoder.pixels([image])) for image in images])
    torch.testing.assert_close(embeddings, alone, rtol=1e-4, atol=1e-5)  # an image's embedding is its own
