"""The table of latent kinds: names, sources, identities, and what a folder lacks."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.latent_kinds import IMAGE_TOWERS, KINDS, TowerKind, kind_names, latent_kind
from neuroimagen.data_shards.frozen_models.model_folder import ModelFolders
from neuroimagen.data_shards.frozen_models.towers.config import TowerConfig

BUILTIN = ("vae", "text-class", "text-detailed", "text-blip", "pooled-class", "pooled-detailed", "pooled-blip", "image")

STATES = ("text", "pooled")


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


def test_a_configured_tower_is_a_kind_of_the_user_s_name(tiny_tower: Callable[[str], Path]) -> None:
    towers = {
        "dino": TowerConfig(path=str(tiny_tower("dinov2")), layer=0.67, pool="mean"),
        "dino-fovea": TowerConfig(path=str(tiny_tower("dinov2")), view="fovea"),
        "clip2": TowerConfig(path=str(tiny_tower("clip-vision")), tower="image"),
    }
    folders = ModelFolders(model=None, towers=towers)
    for name, tower, width in (
        ("dino", "Dinov2Tower", 32),
        ("dino-fovea", "Dinov2Tower", 32),
        ("clip2", "ClipImageTower", 20),
    ):
        kind = latent_kind(name, towers)
        assert isinstance(kind, TowerKind)
        assert type(kind.tower).__name__ == tower
        assert (kind.source, kind.missing(folders), kind.shape(folders)) == ("image", None, (width,))
        assert kind is latent_kind(name, towers)
    with pytest.raises(
        UserError, match=r"'dino' is not one of vae.*--towers dino=FOLDER, in a recipe with model\.towers"
    ):
        latent_kind("dino")


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [
        ("vae", TowerConfig(path="x"), "cannot have the name 'vae'"),
        ("../up", TowerConfig(path="x"), r"cannot have the name '\.\./up'"),
        ("image", TowerConfig(path="x", tower="dinov2"), "image is the name of an image tower, and the tower dinov2"),
        ("dino", TowerConfig(path="x", tower="dinov3"), "there is no image tower 'dinov3'. Did you mean 'dinov2'"),
        ("dino", TowerConfig(pool="mean"), "dino has neither a folder nor a tower"),
        ("dino", TowerConfig(path="nowhere"), "nowhere is no folder, which does not say the image tower"),
        (
            "vector",
            TowerConfig(tower="vae-vector", layer=0.5),
            "the image tower vae-vector has no layer; it has size_px",
        ),
    ],
)
def test_a_tower_that_cannot_be_is_refused(name: str, config: TowerConfig, said: str) -> None:
    with pytest.raises(UserError, match=said):
        latent_kind(name, {name: config})


def test_a_diffusion_model_does_not_say_which_tower_is_meant(tiny_diffusion_folder: Path) -> None:
    config = TowerConfig(path=str(tiny_diffusion_folder))
    with pytest.raises(UserError, match=r"Give it \(tower=…\): one of image, open-clip, dinov2, siglip, vae-vector"):
        latent_kind("mine", {"mine": config})
    towers = {"mine": TowerConfig(tower="vae-vector", size_px=16)}  # without a folder: the model's own
    folders = ModelFolders(model=tiny_diffusion_folder, towers=towers)
    assert latent_kind("mine", towers).shape(folders) == (4 * 4 * 4,)
    without = ModelFolders(model=None, towers=towers)
    assert "no folder is given for it" in str(latent_kind("mine", towers).missing(without))


def test_shapes_need_no_weights(tiny_diffusion_folder: Path, tmp_path: Path) -> None:
    """A dry run asks for them."""
    bare = shutil.copytree(tiny_diffusion_folder, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    whole = ModelFolders(model=tiny_diffusion_folder)
    for name in ("vae", "text-class", "pooled-class"):
        assert latent_kind(name).shape(ModelFolders(model=bare)) == latent_kind(name).identity(whole).shape


def test_what_a_model_is_not_for_is_refused_by_name(tiny_sdxl_folder: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_sdxl_folder, tmp_path / "refiner")
    index = json.loads((model / "model_index.json").read_text())
    index |= {"text_encoder": [None, None], "tokenizer": [None, None]}
    (model / "model_index.json").write_text(json.dumps(index))
    folders = ModelFolders(model=model)
    for name in ("text-class", "pooled-detailed", "text-blip"):
        said = str(latent_kind(name).missing(folders))
        assert said.startswith(f"{model} is SDXL refiner (StableDiffusionXLPipeline): it refines images that SDXL's")
        with pytest.raises(UserError, match=r"is SDXL refiner .*; give the base model's folder\."):
            latent_kind(name).identity(folders)
    assert latent_kind("vae").missing(folders) is None
    for name in ("vae", "text-class"):
        assert latent_kind(name).missing(ModelFolders(model=None)) == "no model folder is given (--model)"


def test_sdxl_s_text_states_are_of_both_text_encoders(tiny_sdxl_folder: Path, tmp_path: Path) -> None:
    whole = ModelFolders(model=tiny_sdxl_folder)
    hidden, pooled = latent_kind("text-class"), latent_kind("pooled-class")
    assert (hidden.missing(whole), pooled.missing(whole)) == (None, None)
    bare = shutil.copytree(tiny_sdxl_folder, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    assert hidden.shape(ModelFolders(model=bare)) == hidden.identity(whole).shape == (24, 16 + 24)
    assert pooled.shape(ModelFolders(model=bare)) == pooled.identity(whole).shape == (12,)
    assert "penultimate" in hidden.identity(whole).preprocessing["state"]
    assert "projected" in pooled.identity(whole).preprocessing["state"]


@pytest.mark.parametrize(
    "changed",
    [
        "text_encoder/model.safetensors",
        "text_encoder_2/model.safetensors",
        "tokenizer/tokenizer_config.json",
        "tokenizer_2/tokenizer_config.json",
    ],
)
def test_the_identity_of_sdxl_s_text_states_covers_all_four_folders(
    tiny_sdxl_folder: Path, tmp_path: Path, changed: str
) -> None:
    model = shutil.copytree(tiny_sdxl_folder, tmp_path / "xl")
    file = model / changed
    revisions = [latent_kind(f"{state}-class").identity(ModelFolders(model=model)).revision for state in STATES]
    file.write_bytes(file.read_bytes() + b" ")
    after = [latent_kind(f"{state}-class").identity(ModelFolders(model=model)).revision for state in STATES]
    assert all(now != before for now, before in zip(after, revisions, strict=True))


def test_every_kind_is_of_one_class() -> None:
    assert all(latent_kind(name) is KINDS[name] for name in KINDS)
    assert latent_kind("image") is latent_kind("image")  # networks are shared by it


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("unet/config.json", "sample_size", "x"),
        ("vae/config.json", "latent_channels", "x"),
        ("vae/config.json", "block_out_channels", 3),
        ("vae/config.json", "scaling_factor", None),
    ],
)
def test_an_odd_value_in_a_configuration_is_one_line(
    tiny_diffusion_folder: Path, tmp_path: Path, file: str, key: str, value: object
) -> None:
    model = shutil.copytree(tiny_diffusion_folder, tmp_path / "model")
    path = model / file
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(UserError):
        latent_kind("vae").identity(ModelFolders(model=model))
