"""Loading networks from folders: damaged, incomplete and pickled weights; what is shared."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.loading import (
    LoadedModels,
    load_image_processor,
    load_transformer,
    loading,
)
from neuroimagen.data_shards.frozen_models.model_folder import ModelFolders
from neuroimagen.data_shards.frozen_models.text import TextEncoder
from neuroimagen.data_shards.frozen_models.towers.clip import ClipImageTower
from neuroimagen.data_shards.frozen_models.vae import PosteriorEncoder, VaeEncoder

CPU = torch.device("cpu")


@pytest.fixture
def model(tiny_diffusion_folder: Path, tmp_path: Path) -> Path:
    """A model folder that the test may damage."""
    return shutil.copytree(tiny_diffusion_folder, tmp_path / "model")


@pytest.mark.parametrize(
    ("encoder", "weights"),
    [
        (VaeEncoder, "vae/diffusion_pytorch_model.safetensors"),
        (TextEncoder, "text_encoder/model.safetensors"),
    ],
)
def test_truncated_weights(model: Path, encoder: type, weights: str) -> None:
    content = (model / weights).read_bytes()
    (model / weights).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=f"cannot load the model in .*{Path(weights).parent}"):
        encoder(model, device=CPU)


def test_weights_in_fp16_alone_are_read_into_float32(model: Path) -> None:
    from safetensors.torch import load_file, save_file

    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    whole: dict[str, torch.Tensor] = {}
    for part, name in (("vae", "diffusion_pytorch_model"), ("text_encoder", "model"), ("clip", "model")):
        path = model / part / f"{name}.safetensors"
        halves = {key: value.half() if value.is_floating_point() else value for key, value in load_file(path).items()}
        # The same numbers in float32, under the plain name: what the variant has to give.
        save_file(
            {key: value.float() if value.is_floating_point() else value for key, value in halves.items()},
            path,
            {"format": "pt"},
        )
        whole |= _outputs(model, part, image)
        path.unlink()
        save_file(halves, model / part / f"{name}.fp16.safetensors", metadata={"format": "pt"})
    for part in ("vae", "text_encoder", "clip"):
        for name, output in _outputs(model, part, image).items():
            assert output.dtype == torch.float32
            torch.testing.assert_close(output, whole[name], rtol=1e-5, atol=1e-5)


def _outputs(model: Path, part: str, image: Image.Image) -> dict[str, torch.Tensor]:
    if part == "text_encoder":
        return {"text": TextEncoder(model, device=CPU).encode(["a red image"])[0]}
    encoder = (
        PosteriorEncoder(VaeEncoder(model, device=CPU)) if part == "vae" else ClipImageTower().load(model, device=CPU)
    )
    return {part: encoder.encode(encoder.pixels([image]))}


def test_missing_weights_do_not_become_random(model: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = model / "text_encoder" / "model.safetensors"
    weights = load_file(path)
    dropped = sorted(weights)[3]
    save_file({name: value for name, value in weights.items() if name != dropped}, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"text_encoder lacks the weights .*{dropped}"):
        TextEncoder(model, device=CPU)


def test_pickled_weights_are_refused(model: Path) -> None:
    (model / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({}, model / "vae" / "diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match=r"cannot load the model in .*vae"):
        VaeEncoder(model, device=CPU)


def test_a_name_on_the_hub_is_no_folder(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"there is no model folder openai/clip.*nothing is downloaded"),
        loading(Path("openai/clip")),
    ):
        pytest.fail("loading began")
    with pytest.raises(UserError, match=f"cannot load the model in {tmp_path}"):
        load_image_processor(tmp_path)


def test_progress_bars_are_off_while_loading_and_back_afterwards(tmp_path: Path) -> None:
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled()
    during: list[bool] = []

    def load() -> None:
        with loading(tmp_path):
            during.append(logging.is_progress_bar_enabled())
            raise OSError("broken")

    with pytest.raises(UserError, match=r"cannot load the model in .*: broken"):
        load()
    assert during == [False]
    assert logging.is_progress_bar_enabled() == before


def test_networks_load_once_and_are_shared(tmp_path: Path) -> None:
    loaded: list[Path] = []

    def load(folder: Path, *, device: torch.device) -> object:
        assert device == CPU
        loaded.append(folder)
        return object()

    models = LoadedModels(ModelFolders(model=tmp_path), device=CPU)
    assert models.get(load, tmp_path) is models.get(load, tmp_path)
    assert models.get(load, tmp_path / "other") is not models.get(load, tmp_path)
    assert loaded == [tmp_path, tmp_path / "other"]


def test_a_kernel_that_a_configuration_names_is_not_fetched(
    model: Path,
) -> None:
    from transformers import CLIPTextModel

    folder = model / "text_encoder"
    config = json.loads((folder / "config.json").read_text())
    for key in ("_attn_implementation", "attn_implementation", "_attn_implementation_internal"):
        config[key] = "someone/kernel@main"
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Model"}}))
    (folder / "evil.py").write_text("raise SystemExit('code of the folder ran')")
    assert load_transformer(CLIPTextModel, folder).config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 0},
        {"dtype": "float99", "torch_dtype": "float99"},
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        {"num_attention_heads": 7},
        {"hidden_act": "no such"},
        {"vocab_size": "many"},
        {"num_hidden_layers": 10**7},
    ],
)
def test_a_configuration_that_no_model_has_is_one_line(change: dict[str, Any], model: Path) -> None:
    path = model / "text_encoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=str(model)) as caught:
        TextEncoder(model, device=CPU)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_of_another_model_is_named(model: Path) -> None:
    encoder = TextEncoder(model, device=CPU)
    embeddings = encoder.text_models[0].get_input_embeddings()
    embeddings.num_embeddings = 3
    with pytest.raises(UserError, match="knows 3: they are not of one model"):
        encoder.encode(["a dog"])


@pytest.mark.parametrize(("key", "value"), [("image_mean", ["", "x", None]), ("image_mean", [[]]), ("image_std", [])])
def test_settings_of_a_processor_are_tried_when_it_is_loaded(
    tiny_diffusion_folder: Path, tmp_path: Path, key: str, value: object
) -> None:
    folder = shutil.copytree(tiny_diffusion_folder / "clip", tmp_path / "clip")
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(UserError, match=r"cannot load the model in .*clip: "):
        load_image_processor(folder)
