"""What a user may set of an image tower, and how it is written down."""

from pathlib import Path

import pytest

from neuroimagen.data_shards.frozen_models.towers.config import TowerConfig


def test_what_is_given_is_known_and_written_as_the_command_line_takes_it() -> None:
    config = TowerConfig(path="models/dino", layer=0.67, pool="mean", view="fovea")
    assert config.given() == {"layer": 0.67, "pool": "mean", "view": "fovea"}
    assert config.words("dino") == "dino=models/dino:layer=0.67,pool=mean,view=fovea"
    assert TowerConfig(path="models/clip").words("image") == "image=models/clip"
    assert TowerConfig(tower="vae-vector", size_px=64).words("v") == "v=:tower=vae-vector,size_px=64"


def test_the_folder_may_be_in_the_user_s_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert TowerConfig(path="~/dino").folder == tmp_path / "dino"
    assert TowerConfig().folder is None


@pytest.mark.parametrize("layer", [0.0, -0.5, 1.01, float("nan")])
def test_a_layer_outside_the_network_is_refused(layer: float) -> None:
    with pytest.raises(ValueError, match=r"layer is a depth in \(0, 1\]"):
        TowerConfig(layer=layer)
    assert TowerConfig(layer=1.0).layer == 1.0


@pytest.mark.parametrize("size_px", [0, 7, 4097])
def test_an_absurd_size_is_refused(size_px: int) -> None:
    with pytest.raises(ValueError, match=r"size_px must lie in \[8, 4096\]"):
        TowerConfig(size_px=size_px)
