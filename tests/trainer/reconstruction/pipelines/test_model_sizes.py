"""What is refused before any weights are loaded, and by which name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_families import build_tiny_unclip_folder, write_tiny_ip_adapter

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.ip_adapter import IPAdapterConfig
from neuroimagen.trainer.reconstruction.pipelines.model_sizes import read_sizes

Change = Callable[[Path], None]


def config(component: str, **values: object) -> Change:
    """A change of a component's configuration."""

    def change(model: Path) -> None:
        path = model / component / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def index(**values: object) -> Change:
    """A change of model_index.json."""

    def change(model: Path) -> None:
        path = model / "model_index.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


@pytest.fixture
def model(tiny_diffusion_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_diffusion_folder, tmp_path / "model")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (index(_class_name="StableDiffusion3Pipeline"), r"Stable Diffusion 3 .* transformer in place of a U-Net"),
        (index(_class_name="FluxPipeline"), r"is FLUX .* transformer"),
        (index(_class_name="KandinskyV22Pipeline"), r"is Kandinsky .* VQ autoencoder"),
        (index(_class_name="PixArtAlphaPipeline"), r"PixArtAlphaPipeline: no part of neuroimagen samples with"),
        (config("unet", in_channels=9), r"takes 9 channels where latents have 4 \(inpainting, depth or"),
        (config("unet", in_channels=5), r"takes 5 channels where latents have 4"),
        (config("unet", attention_type="gated"), r"takes places of objects beside the text"),
        (config("unet", addition_embed_type="text_time"), r"more than Stable Diffusion's \(addition_embed_type"),
        (config("unet", class_embed_type="timestep"), r"takes class labels \('timestep'\)"),
        (config("unet", num_class_embeds=1000), r"takes class labels"),
        (config("unet", encoder_hid_dim_type="text_proj"), r"projects other text states"),
        (config("vae", in_channels=6), r"takes 6 channels of a picture"),
        (config("vae", latents_mean=[0.0] * 4), r"latents are standardised channel by channel"),
        (config("unet", cross_attention_dim=48), r"attends to width 48, the text encoder gives 32"),
    ],
)
def test_models_that_are_not_served(model: Path, change: Change, message: str) -> None:
    change(model)
    with pytest.raises(UserError, match=message):
        read_sizes(model)


def test_a_control_net_is_refused(model: Path) -> None:
    shutil.copytree(model / "unet", model / "controlnet")
    index(controlnet=["diffusers", "ControlNetModel"])(model)
    with pytest.raises(UserError, match=r"its pipeline adds a ControlNet, which takes another picture"):
        read_sizes(model)


def test_a_folder_that_is_none(model: Path) -> None:
    (model / "model_index.json").unlink()
    with pytest.raises(UserError, match=r"no model_index\.json"):
        read_sizes(model)


def test_a_fine_tuned_u_net_of_another_model(model: Path, tmp_path: Path) -> None:
    other = shutil.copytree(model / "unet", tmp_path / "unet")
    assert read_sizes(model, unet=other) == read_sizes(model)
    path = other / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"in_channels": 8}))
    with pytest.raises(UserError, match=r"unet takes 8 channels, the latents of .* have 4: it belongs to another"):
        read_sizes(model, unet=other)


class TestAdapters:
    def adapter(self, model: Path, tmp_path: Path, **options: int) -> dict[str, IPAdapterConfig]:
        options = {"embedding_size": 12, **options}
        file = write_tiny_ip_adapter(tmp_path / "a.safetensors", model, **options)
        return {"face": IPAdapterConfig(path=str(file), target="clip")}

    def test_sizes(self, model: Path, tmp_path: Path) -> None:
        write_tiny_ip_adapter(model / "ip_adapter" / "ip_adapter.safetensors", model, embedding_size=20)
        sizes = read_sizes(model, adapters=self.adapter(model, tmp_path))
        assert sizes.image_sizes == {"ip_adapter": 20, "face": 12}
        assert sizes.targets == {"ip_adapter": "image", "face": "clip"}
        assert sizes.own_adapters == {"ip_adapter"}
        with pytest.raises(UserError, match=r"face .* width 12; those of kind 'clip' have width 768\. Choose"):
            sizes.adapters["face"].require_embedding("face", "clip", 768)

    def test_another_width(self, model: Path, tmp_path: Path) -> None:
        with pytest.raises(
            UserError, match=r"face .* tokens of width 768, as those of Stable Diffusion 1\.x; .* width 32\. Choose"
        ):
            read_sizes(model, adapters=self.adapter(model, tmp_path, width=768))

    def test_beside_unclip(self, tmp_path: Path) -> None:
        folder = build_tiny_unclip_folder(tmp_path / "unclip")
        with pytest.raises(UserError, match=r"2\.1-unCLIP .* takes no IP-Adapter \(face\): its own image embedding"):
            read_sizes(folder, adapters=self.adapter(folder, tmp_path))
        shutil.rmtree(folder / "image_normalizer")
        with pytest.raises(UserError, match=r"lacks its image_normalizer/ folder: the download is not complete"):
            read_sizes(folder)

    def test_the_name_of_unclip(self, model: Path) -> None:
        with pytest.raises(UserError, match=r"model\.ip_adapters\.unclip: an unCLIP model's own condition has that"):
            read_sizes(model, adapters={"unclip": IPAdapterConfig(path="a.safetensors")})
