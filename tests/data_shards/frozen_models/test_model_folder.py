"""What model folders say of themselves: sizes, revisions, and what is missing."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.model_folder import (
    ModelFolders,
    component_folder,
    folders_digest,
    image_size_px,
    pooled_size,
    read_config,
    require_captioner_folder,
    require_diffusion_folder,
    text_layout,
    text_shape,
    vae_reduction,
    weights_variant,
)
from neuroimagen.data_shards.frozen_models.towers.config import TowerConfig


@pytest.fixture
def model(tiny_diffusion_folder: Path, tmp_path: Path) -> Path:
    """A model folder that the test may change."""
    return shutil.copytree(tiny_diffusion_folder, tmp_path / "model")


def test_sizes_come_from_the_configurations(model: Path) -> None:
    assert (image_size_px(model), vae_reduction(model), text_shape(model)) == (32, 4, (24, 32))
    path = model / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sample_size": 16}))
    assert image_size_px(model) == 64
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sample_size": [16, 8]}))
    with pytest.raises(UserError, match="only square images are supported"):
        image_size_px(model)


def test_the_layout_of_text_follows_from_the_family(model: Path, tiny_sdxl_folder: Path, tmp_path: Path) -> None:
    one = text_layout(model)
    assert (one.encoders, one.pooled_size) == ((("text_encoder", "tokenizer"),), 32)
    assert pooled_size(model) is None
    index = json.loads((model / "model_index.json").read_text())
    (model / "model_index.json").write_text(json.dumps(index | {"_class_name": "StableUnCLIPImg2ImgPipeline"}))
    assert text_layout(model) == one
    assert (text_shape(tiny_sdxl_folder), pooled_size(tiny_sdxl_folder)) == ((24, 40), 12)
    assert len(text_layout(tiny_sdxl_folder).encoders) == 2
    other = shutil.copytree(tiny_sdxl_folder, tmp_path / "xl")
    path = other / "text_encoder_2" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_position_embeddings": 77}))
    with pytest.raises(UserError, match=r"text_encoder takes 24 tokens and text_encoder_2 77, .* fetch the folder"):
        text_layout(other)


def test_a_moved_folder_keeps_its_revision_and_a_changed_one_does_not(model: Path, tmp_path: Path) -> None:
    before = folders_digest(model / "tokenizer")
    moved = shutil.copytree(model / "tokenizer", tmp_path / "elsewhere")
    assert folders_digest(moved) == before
    (moved / "README.md").write_text("not part of the model")
    assert folders_digest(moved) == before
    (moved / "merges.txt").rename(moved / "other.txt")
    assert folders_digest(moved) != before
    (model / "tokenizer" / "vocab.json").write_text("{}")
    assert folders_digest(model / "tokenizer") != before
    assert folders_digest(model / "vae", model / "unet") != folders_digest(model / "unet", model / "vae")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (shutil.rmtree, "model folder .*model does not exist"),
        (lambda model: (model / "model_index.json").unlink(), r"model has no model_index\.json"),
        (lambda model: shutil.rmtree(model / "vae"), "lacks its vae/ folder"),
    ],
)
def test_an_incomplete_folder_is_named(model: Path, break_it: Callable[[Path], None], message: str) -> None:
    assert require_diffusion_folder(model) == model
    break_it(model)
    with pytest.raises(UserError, match=message):
        component_folder(model, "vae")


@pytest.mark.parametrize(("text", "message"), [("{", "is not valid JSON"), ("[1]", "does not hold a JSON object")])
def test_a_damaged_configuration_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=r"config\.json is missing"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_config(tmp_path)


def test_a_value_of_another_kind_is_named(tmp_path: Path) -> None:
    content = {"whole": 3, "zero": 0, "number": 0.5, "text": "3", "flag": True, "nothing": None, "part": {"whole": 4}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    config = read_config(tmp_path)
    assert (config.whole_number("whole"), config.whole_number("absent", 7)) == (3, 7)
    assert (config.whole_number("zero", at_least=0), config.number("number"), config.number("whole")) == (0, 0.5, 3.0)
    assert config.number("absent", 0.25) == 0.25
    assert config.part("part").whole_number("whole") == 4
    assert config.part("absent").whole_number("whole") == 3
    for key in ("zero", "number", "text", "flag", "nothing", "part"):
        with pytest.raises(UserError, match=rf"config\.json: {key} is .*; expected a whole number of at least 1"):
            config.whole_number(key, 5)
    for key in ("text", "flag", "nothing", "part"):
        with pytest.raises(UserError, match=rf"config\.json: {key} is .*; expected a number"):
            config.number(key)
    with pytest.raises(UserError, match=r"config\.json: nothing is None; expected a JSON object"):
        config.part("nothing")
    for lacking in (config.whole_number, config.number, config.part("part").number):
        with pytest.raises(UserError, match=r"config\.json has no 'absent'"):
            lacking("absent")


def test_only_blip_writes_captions(model: Path, tiny_blip_folder: Path) -> None:
    assert require_captioner_folder(tiny_blip_folder) == tiny_blip_folder
    with pytest.raises(UserError, match="clip is a CLIP model, not a BLIP captioner"):
        require_captioner_folder(model / "clip")


def test_towers_without_a_folder_are_looked_for_in_the_model() -> None:
    towers = {"dinov2": TowerConfig(path="other"), "fovea": TowerConfig(view="fovea")}
    folders = ModelFolders(model=Path("model"), towers=towers)
    assert (folders.tower("dinov2"), folders.tower("image")) == (Path("other"), Path("model"))
    assert folders.tower("fovea") == Path("model")
    assert ModelFolders(model=None).tower("image") is None


@pytest.mark.parametrize(
    ("names", "variant"),
    [
        ((), None),
        (("model.safetensors", "model.fp16.safetensors"), None),
        (("model.fp16.safetensors",), "fp16"),
        (("diffusion_pytorch_model.fp16-00001-of-00002.safetensors",), "fp16"),
        (("diffusion_pytorch_model-00001-of-00002.fp16.safetensors",), "fp16"),
        (("diffusion_pytorch_model-00001-of-00002.safetensors",), None),
        (("model.non_ema.safetensors",), "non_ema"),
        (("adapter.fp16.safetensors",), None),
    ],
)
def test_the_variant_of_weights_is_read_from_their_names(
    tmp_path: Path, names: tuple[str, ...], variant: str | None
) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert weights_variant(tmp_path) == variant


def test_several_variants_without_plain_weights_are_refused(tmp_path: Path) -> None:
    for name in ("model.fp16.safetensors", "model.bf16.safetensors"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match="in the variants bf16, fp16 and none without"):
        weights_variant(tmp_path)
