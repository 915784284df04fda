"""What an image tower has without declaring it, and what it must declare."""

from pathlib import Path

import pytest
import torch

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.encoder import CHECK_TOLERANCE, EncoderIdentity, ImageEncoder
from neuroimagen.data_shards.frozen_models.towers.base import ImageTower
from neuroimagen.data_shards.frozen_models.towers.config import TowerConfig


class Identified(ImageTower):
    def identity(self, folder: Path) -> EncoderIdentity:
        return EncoderIdentity(model_id="m", revision="r", preprocessing={}, shape=(2,))


class Complete(Identified):
    def load(self, folder: Path, *, device: torch.device) -> ImageEncoder:
        raise NotImplementedError


def test_a_tower_without_identity_or_loader_cannot_be_made() -> None:
    for incomplete, name in ((ImageTower, "identity"), (Identified, "load")):
        with pytest.raises(TypeError, match=name):
            incomplete()


def test_by_default_a_tower_serves_any_folder_at_the_common_tolerance(tmp_path: Path) -> None:
    tower = Complete()
    assert tower.missing(tmp_path / "nowhere") is None
    assert tower.check_tolerance is CHECK_TOLERANCE
    assert tower.by_default
    assert (tower.shape(tmp_path), tower.view_px(tmp_path)) == ((2,), 224)


def test_a_configured_tower_is_a_copy_with_the_settings_that_it_accepts() -> None:
    tower = Complete()
    viewed = tower.configured(TowerConfig(view="fovea"), name="complete")
    assert (viewed.config.view, tower.config.view) == ("fovea", None)
    with pytest.raises(UserError, match="complete has no layer and no size_px; it has view alone"):
        tower.configured(TowerConfig(layer=0.5, size_px=64), name="complete")
    tower.accepts = ("layer",)
    assert tower.configured(TowerConfig(layer=0.5), name="complete").config.layer == 0.5
    with pytest.raises(UserError, match="complete has no pool; it has layer and view"):
        tower.configured(TowerConfig(pool="cls"), name="complete")
