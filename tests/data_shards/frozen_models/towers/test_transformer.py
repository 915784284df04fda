"""What vision transformers have in common: depth, pooling, size, views, and what is shared."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.latent_kinds import latent_kind
from neuroimagen.data_shards.frozen_models.loading import LoadedModels
from neuroimagen.data_shards.frozen_models.model_folder import ModelFolders
from neuroimagen.data_shards.frozen_models.towers.config import TowerConfig
from neuroimagen.data_shards.frozen_models.towers.dinov2 import Dinov2Tower
from neuroimagen.data_shards.frozen_models.towers.siglip import SiglipTower
from neuroimagen.data_shards.frozen_models.towers.transformer import VisionSizes

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("layer", "num_blocks", "block"),
    [(0.67, 12, 8), (2 / 3, 40, 27), (1.0, 12, 12), (0.01, 12, 1), (0.5, 3, 2), (0.96, 12, 12), (0.95, 12, 11)],
)
def test_a_layer_is_the_nearest_block(layer: float, num_blocks: int, block: int) -> None:
    sizes = VisionSizes(width=8, num_blocks=num_blocks, image_px=32, num_prefix_tokens=1, projection=None)
    assert Dinov2Tower().configured(TowerConfig(layer=layer), name="dinov2").block(sizes) == block
    assert Dinov2Tower().block(sizes) is None


def test_the_default_pooling_depends_on_the_layer() -> None:
    def pool(tower: type, **settings: object) -> str:
        return str(tower().configured(TowerConfig(**settings), name="t").pool)  # type: ignore[arg-type]

    assert [pool(SiglipTower), pool(SiglipTower, layer=0.5)] == ["projection", "mean"]
    assert [pool(Dinov2Tower), pool(Dinov2Tower, pool="mean")] == ["cls", "mean"]


@pytest.mark.parametrize(
    ("kind", "config", "said"),
    [
        ("siglip", TowerConfig(pool="cls"), "cannot be pooled by cls, but by projection or mean"),
        ("siglip", TowerConfig(layer=0.5, pool="projection"), "pool=projection reads the last layer"),
        ("clip-plain", TowerConfig(), "has no embedding of its own; choose pool=cls or pool=mean"),
        ("dinov2", TowerConfig(pool="projection"), "cannot be pooled by projection, but by cls or mean"),
    ],
)
def test_what_a_network_cannot_give_is_said_before_it_is_loaded(
    tiny_tower: Callable[[str], Path], kind: str, config: TowerConfig, said: str
) -> None:
    towers = {"x": TowerConfig(path=str(tiny_tower(kind)), **config.given())}  # type: ignore[arg-type]
    declared, folders = latent_kind("x", towers), ModelFolders(model=None, towers=towers)
    assert said in str(declared.missing(folders))
    with pytest.raises(UserError, match=said.split(";")[0]):
        declared.identity(folders)


def test_a_folder_of_another_network_or_without_weights_is_named(
    tiny_tower: Callable[[str], Path], tmp_path: Path
) -> None:
    assert "(it is a SigLIP model)" in str(Dinov2Tower().missing(tiny_tower("siglip")))
    folder = tmp_path / "bare"
    folder.mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        (folder / name).write_bytes((tiny_tower("dinov2") / name).read_bytes())
    assert str(Dinov2Tower().missing(folder)) == f"{folder} holds no weights"
    assert Dinov2Tower().shape(folder) == (32,)  # a configuration is enough for that
    (folder / "preprocessor_config.json").unlink()
    assert "has no preprocessor_config.json" in str(Dinov2Tower().missing(folder))


def test_every_setting_is_part_of_the_identity(tiny_tower: Callable[[str], Path]) -> None:
    settings: list[dict[str, object]] = [
        {},
        {"pool": "mean"},
        {"layer": 0.67},
        {"layer": 1.0},
        {"size_px": 48},
        {"view": "fovea"},
        {"view": "mean-of-four"},
        {"view": "fovea", "size_px": 48},
    ]
    seen = []
    for given in settings:
        towers = {"dino": TowerConfig(path=str(tiny_tower("dinov2")), **given)}  # type: ignore[arg-type]
        seen.append(latent_kind("dino", towers).identity(ModelFolders(model=None, towers=towers)))
    assert len({str(identity.preprocessing) for identity in seen}) == len(settings)
    assert len({identity.revision for identity in seen}) == 1
    # 0.66 and 0.67 of three blocks are the same block: the same numbers, the same identity.
    towers = {"dino": TowerConfig(path=str(tiny_tower("dinov2")), layer=0.66)}
    assert latent_kind("dino", towers).identity(ModelFolders(model=None, towers=towers)) == seen[2]


def test_configurations_of_one_folder_share_its_weights(tiny_tower: Callable[[str], Path]) -> None:
    path = str(tiny_tower("dinov2"))
    towers = {"whole": TowerConfig(path=path), "deep": TowerConfig(path=path, layer=0.67, pool="mean")}
    models = LoadedModels(ModelFolders(model=None, towers=towers), device=CPU)
    whole, deep = (latent_kind(name, towers).encoder(models) for name in towers)  # type: ignore[attr-defined]
    assert whole.network is deep.network
    pixels = whole.pixels([Image.new("RGB", (40, 40), (200, 30, 90))])
    before = whole.encode(pixels)
    deep.encode(pixels)
    assert torch.equal(whole.encode(pixels), before)  # the shortened network left the whole one as it was
    assert len(whole.network.model.encoder.layer) == 3


def test_another_size_is_resized_and_cropped_to(tiny_tower: Callable[[str], Path]) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))
    for kind, tower in (("dinov2", Dinov2Tower()), ("siglip", SiglipTower())):
        chosen = tower.configured(TowerConfig(size_px=48), name=kind)
        pixels = chosen.load(tiny_tower(kind), device=CPU).pixels([image])
        assert pixels.shape == (1, 3, 48, 48)
        assert chosen.view_px(tiny_tower(kind)) == 48
    assert Dinov2Tower().view_px(tiny_tower("dinov2")) == 36  # what its processor resizes to, before it crops
    assert SiglipTower().view_px(tiny_tower("siglip")) == 32


@pytest.mark.parametrize(
    ("crop", "message"),
    [
        ((32, 1), "makes images of 32 × 1 px; expected squares"),
        ((4, 4), "takes images of 4 px.*less than a patch of 8"),
    ],
)
def test_images_that_the_network_cannot_take_are_refused_when_it_is_loaded(
    tiny_tower: Callable[[str], Path], tmp_path: Path, crop: tuple[int, int], message: str
) -> None:
    folder = shutil.copytree(tiny_tower("dinov2"), tmp_path / "dinov2")
    path = folder / "preprocessor_config.json"
    settings = json.loads(path.read_text()) | {
        "do_center_crop": True,
        "crop_size": dict(zip(("height", "width"), crop, strict=True)),
    }
    path.write_text(json.dumps(settings))
    with pytest.raises(UserError, match=message):
        Dinov2Tower().load(folder, device=CPU)
