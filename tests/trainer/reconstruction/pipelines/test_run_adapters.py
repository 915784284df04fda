"""Which adapters a run draws with: the recipe's, and those that its diffusion stage trained."""

import shutil
from pathlib import Path

import pytest
from tiny_families import write_trained_adapters

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.ip_adapter import NEW, IPAdapterConfig
from neuroimagen.trainer.reconstruction.pipelines.generator import model_digest
from neuroimagen.trainer.reconstruction.pipelines.model_sizes import read_sizes
from neuroimagen.trainer.reconstruction.pipelines.run_adapters import run_adapters

FILE = IPAdapterConfig(path="a.safetensors", target="image-h")
MADE = IPAdapterConfig(path=NEW, target="image")


def test_without_a_trained_one_they_are_the_recipe_s(tmp_path: Path) -> None:
    found = run_adapters(tmp_path / "absent", {"a": FILE, "mine": MADE})
    assert found.frozen == {"a": FILE}
    assert (found.trained, found.with_unet, found.untrained) == (frozenset(), frozenset(), ("mine",))


def test_trained_ones_stand_in_for_the_recipe_s(tmp_path: Path, tiny_diffusion_folder: Path) -> None:
    export = write_trained_adapters(tmp_path / "export", tiny_diffusion_folder, "a", "mine")
    found = run_adapters(export, {"a": FILE, "other": FILE, "mine": MADE})
    assert list(found.frozen) == ["a", "other", "mine"]  # the order in which they are loaded is the recipe's
    assert found.frozen["other"] == FILE
    assert Path(found.frozen["a"].path) == export / "ip_adapters" / "a.safetensors"
    assert found.frozen["a"].target == "image"
    assert (found.trained, found.untrained) == ({"a", "mine"}, ())
    assert found.with_unet == frozenset()


def test_those_that_were_trained_with_the_u_net_are_its_own(tmp_path: Path, tiny_diffusion_folder: Path) -> None:
    export = write_trained_adapters(tmp_path / "export", tiny_diffusion_folder, "mine")
    (export / "unet").mkdir()
    shutil.copy(tiny_diffusion_folder / "unet" / "config.json", export / "unet")
    found = run_adapters(export, {"mine": MADE})
    assert (found.frozen, found.with_unet, found.untrained) == ({}, {"mine"}, ("mine",))
    sizes = read_sizes(tiny_diffusion_folder, unet=export / "unet")
    assert (sizes.targets, sizes.own_adapters, sizes.image_sizes) == ({"mine": "image"}, {"mine"}, {"mine": 20})
    assert read_sizes(tiny_diffusion_folder).targets == {}


def test_new_adapters_are_no_part_of_the_model_s_digest(tiny_diffusion_folder: Path) -> None:
    assert model_digest(tiny_diffusion_folder, {"mine": MADE}) == model_digest(tiny_diffusion_folder)


@pytest.mark.parametrize("content", ["{", '{"../a": "image"}', '{"a": 3}'])
def test_a_damaged_list_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "ip_adapters").mkdir()
    (tmp_path / "ip_adapters" / "adapters.json").write_text(content)
    with pytest.raises(UserError, match=r"adapters\.json.*Train the diffusion stage again"):
        run_adapters(tmp_path, {})
