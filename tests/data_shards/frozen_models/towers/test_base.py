"""What an image tower has without declaring it, and what it must declare."""

from pathlib import Path

import pytest
import torch

from neuroimagen.data_shards.frozen_models.encoder import CHECK_TOLERANCE, EncoderIdentity, ImageEncoder
from neuroimagen.data_shards.frozen_models.towers.base import ImageTower


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
