"""The table of latent kinds: names, sources, identities, and what a folder lacks."""

import subprocess
import sys
from pathlib import Path

import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.latent_kinds import IMAGE_TOWERS, KINDS, kind_names, latent_kind
from neuroimagen.data_shards.frozen_models.model_folder import ModelFolders
from neuroimagen.data_shards.frozen_models.towers.config import TowerConfig

BUILTIN = ("vae", "text-class", "text-detailed", "text-blip", "pooled-class", "pooled-detailed", "pooled-blip", "image")


def test_the_kinds_are_these() -> None:
    """Their names are on disk and in recipes."""
    assert kind_names()[: len(BUILTIN)] == BUILTIN
    assert [latent_kind(name).source for name in BUILTIN] == [
        "image",
        *["class caption", "detailed caption", "BLIP caption"] * 2,
        "image",
    ]
    with pytest.raises(UserError, match="latent kind 'vea' is not one of vae, text-class"):
        latent_kind("vea")


def test_shapes_and_revisions_are_read_without_weights(tiny_diffusion_folder: Path, tmp_path: Path) -> None:
    folders = ModelFolders(model=tiny_diffusion_folder)
    shapes = {name: latent_kind(name).identity(folders).shape for name in BUILTIN}
    assert shapes["vae"] == (2, 4, 8, 8)
    assert shapes["image"] == (20,)
    assert {shapes[f"text-{source}"] for source in ("class", "detailed", "blip")} == {(24, 32)}
    assert {shapes[f"pooled-{source}"] for source in ("class", "detailed", "blip")} == {(32,)}
    revisions = {name: latent_kind(name).identity(folders).revision for name in BUILTIN}
    assert len(set(revisions.values())) == 3  # VAE, text encoder, CLIP
    assert latent_kind("vae").identity(folders).scaling_factor == pytest.approx(0.7)


def test_the_captioner_belongs_to_the_identity_of_blip_s_kinds_alone(
    tiny_diffusion_folder: Path, tiny_blip_folder: Path
) -> None:
    folders = ModelFolders(model=tiny_diffusion_folder, captioner=tiny_blip_folder)
    for name in BUILTIN:
        without = latent_kind(name).missing(ModelFolders(model=tiny_diffusion_folder))
        assert (without is not None) == name.endswith("blip")
        assert latent_kind(name).missing(folders) is None
        assert ("captioner" in latent_kind(name).identity(folders).preprocessing) == name.endswith("blip")


def test_a_tower_looks_in_its_own_folder_first(tiny_diffusion_folder: Path, tmp_path: Path) -> None:
    kind, clip = latent_kind("image"), tiny_diffusion_folder / "clip"
    own = ModelFolders(model=tmp_path, towers={"image": TowerConfig(path=str(clip))})
    assert kind.missing(own) is None
    assert kind.identity(own).revision == kind.identity(ModelFolders(model=tiny_diffusion_folder)).revision
    with pytest.raises(UserError, match=rf"{tmp_path} holds no CLIP .*; --towers image=FOLDER gives one\.$"):
        kind.identity(ModelFolders(model=tmp_path))


@pytest.mark.parametrize("name", ["vae", "text-class", "../up", "two words"])
def test_a_tower_of_an_impossible_name_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(IMAGE_TOWERS, "names", lambda: ("image", name))
    with pytest.raises(UserError, match=f"an image tower is called '{name}'"):
        kind_names()


def test_names_are_known_without_pytorch() -> None:
    code = (
        "import sys; from neuroimagen.data_shards.frozen_models.latent_kinds import kind_names\n"
        "assert 'image' in kind_names(); assert not {'torch', 'PIL', 'transformers'} & set(sys.modules), sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_kind_is_of_one_class() -> None:
    assert all(latent_kind(name) is KINDS[name] for name in KINDS)
    assert latent_kind("image") is latent_kind("image")  # networks are shared by it
