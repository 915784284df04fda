"""What folders are said to be: real layouts, by their configurations, and downloads that stopped half-way."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from neuroimagen.data_shards.frozen_models.recognise import USES, clip_image_folder, recognise, weights_problem

CLIP_TEXT = {"model_type": "clip_text_model", "hidden_size": 768, "max_position_embeddings": 77}
VAE = {"_class_name": "AutoencoderKL", "latent_channels": 4, "block_out_channels": [1, 2, 3, 4], "scaling_factor": 0.18}
VISION = {"model_type": "clip_vision_model", "architectures": ["CLIPVisionModelWithProjection"]}

LAYOUTS: Mapping[str, tuple[str, dict[str, tuple[str, dict[str, Any]]]]] = {
    "sd15": (
        "StableDiffusionPipeline",
        {
            "vae": ("AutoencoderKL", VAE),
            "unet": ("UNet2DConditionModel", {"in_channels": 4, "sample_size": 64}),
            "text_encoder": ("CLIPTextModel", CLIP_TEXT),
            "tokenizer": ("CLIPTokenizer", {}),
            "scheduler": ("PNDMScheduler", {}),
        },
    ),
    "inpainting": (
        "StableDiffusionInpaintPipeline",
        {
            "vae": ("AutoencoderKL", VAE),
            "unet": ("UNet2DConditionModel", {"in_channels": 9, "sample_size": 64}),
            "text_encoder": ("CLIPTextModel", {**CLIP_TEXT, "hidden_size": 1024}),
            "tokenizer": ("CLIPTokenizer", {}),
            "scheduler": ("DDIMScheduler", {}),
        },
    ),
    "unclip": (
        "StableUnCLIPImg2ImgPipeline",
        {
            "vae": ("AutoencoderKL", VAE),
            "unet": (
                "UNet2DConditionModel",
                {"in_channels": 4, "sample_size": 96, "class_embed_type": "projection"},
            ),
            "text_encoder": ("CLIPTextModel", {**CLIP_TEXT, "hidden_size": 1024}),
            "tokenizer": ("CLIPTokenizer", {}),
            "scheduler": ("DDIMScheduler", {}),
            "image_encoder": ("CLIPVisionModelWithProjection", VISION),
            "feature_extractor": ("CLIPImageProcessor", {}),
            "image_normalizer": ("StableUnCLIPImageNormalizer", {"embedding_dim": 768}),
            "image_noising_scheduler": ("DDPMScheduler", {}),
        },
    ),
    "sdxl": (
        "StableDiffusionXLPipeline",
        {
            "vae": ("AutoencoderKL", VAE),
            "unet": (
                "UNet2DConditionModel",
                {"in_channels": 4, "addition_embed_type": "text_time"},
            ),
            "text_encoder": ("CLIPTextModel", CLIP_TEXT),
            "text_encoder_2": ("CLIPTextModelWithProjection", {**CLIP_TEXT, "hidden_size": 1280}),
            "tokenizer": ("CLIPTokenizer", {}),
            "tokenizer_2": ("CLIPTokenizer", {}),
            "scheduler": ("EulerDiscreteScheduler", {}),
        },
    ),
    "sdxl-refiner": (
        "StableDiffusionXLImg2ImgPipeline",
        {
            "vae": ("AutoencoderKL", VAE),
            "unet": ("UNet2DConditionModel", {"in_channels": 4, "addition_embed_type": "text_time"}),
            "text_encoder_2": ("CLIPTextModelWithProjection", {**CLIP_TEXT, "hidden_size": 1280}),
            "tokenizer_2": ("CLIPTokenizer", {}),
            "scheduler": ("EulerDiscreteScheduler", {}),
        },
    ),
    "sd3": (
        "StableDiffusion3Pipeline",
        {
            "vae": ("AutoencoderKL", {**VAE, "latent_channels": 16}),
            "transformer": ("SD3Transformer2DModel", {"sample_size": 128}),
            "text_encoder": ("CLIPTextModelWithProjection", CLIP_TEXT),
            "text_encoder_3": ("T5EncoderModel", {}),
            "tokenizer": ("CLIPTokenizer", {}),
            "scheduler": ("FlowMatchEulerDiscreteScheduler", {}),
        },
    ),
    "flux": (
        "FluxPipeline",
        {
            "vae": ("AutoencoderKL", {**VAE, "latent_channels": 16}),
            "transformer": ("FluxTransformer2DModel", {}),
            "text_encoder": ("CLIPTextModel", CLIP_TEXT),
            "text_encoder_2": ("T5EncoderModel", {}),
            "tokenizer": ("CLIPTokenizer", {}),
            "scheduler": ("FlowMatchEulerDiscreteScheduler", {}),
        },
    ),
    "kandinsky-prior": (
        "KandinskyV22PriorPipeline",
        {
            "prior": ("PriorTransformer", {}),
            "image_encoder": ("CLIPVisionModelWithProjection", VISION),
            "text_encoder": ("CLIPTextModelWithProjection", CLIP_TEXT),
            "tokenizer": ("CLIPTokenizer", {}),
            "scheduler": ("UnCLIPScheduler", {}),
            "image_processor": ("CLIPImageProcessor", {}),
        },
    ),
    "kandinsky": (
        "KandinskyV22Pipeline",
        {
            "unet": ("UNet2DConditionModel", {"in_channels": 4, "sample_size": 64}),
            "movq": ("VQModel", {}),
            "scheduler": ("DDPMScheduler", {}),
        },
    ),
    "pixart": ("PixArtAlphaPipeline", {"vae": ("AutoencoderKL", VAE), "transformer": ("Transformer2DModel", {})}),
}


def write_layout(folder: Path, name: str) -> Path:
    """The files of a model folder as far as recognising reads them."""
    class_name, components = LAYOUTS[name]
    folder.mkdir(parents=True)
    index: dict[str, Any] = {"_class_name": class_name, "_diffusers_version": "0.40.0", "safety_checker": [None, None]}
    for component, (kind, config) in components.items():
        index[component] = ["diffusers", kind]
        (folder / component).mkdir()
        (folder / component / "config.json").write_text(json.dumps(config))
        if not any(word in kind for word in ("Tokenizer", "Scheduler", "Processor")):
            (folder / component / "model.fp16.safetensors").write_bytes(b"weights")
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize(
    ("name", "what", "serves"),
    [
        ("sd15", "Stable Diffusion 1.x (StableDiffusionPipeline)", {"vae", "text", "diffusion"}),
        ("inpainting", "Stable Diffusion 2.x (StableDiffusionInpaintPipeline)", {"vae", "text"}),
        ("unclip", "Stable Diffusion 2.1-unCLIP (StableUnCLIPImg2ImgPipeline)", {"vae", "text", "image", "diffusion"}),
        ("sdxl", "SDXL (StableDiffusionXLPipeline)", {"vae", "text", "diffusion"}),
        ("sdxl-refiner", "SDXL refiner (StableDiffusionXLImg2ImgPipeline)", {"vae"}),
        ("sd3", "Stable Diffusion 3 (StableDiffusion3Pipeline)", set()),
        ("flux", "FLUX (FluxPipeline)", set()),
        ("kandinsky-prior", "Kandinsky (KandinskyV22PriorPipeline)", {"image"}),
        ("kandinsky", "Kandinsky (KandinskyV22Pipeline)", set()),
        ("pixart", "a model of diffusers' PixArtAlphaPipeline", set()),
    ],
)
def test_a_diffusion_model_is_known_by_its_pipeline(tmp_path: Path, name: str, what: str, serves: set[str]) -> None:
    content = recognise(write_layout(tmp_path / name, name))
    assert content.what == what
    assert set(content.serves) == serves
    assert not content.problems, "a complete download is not called incomplete"
    assert set(content.refuses) == set(USES) - serves
    assert not any("complete" in reason for reason in content.refuses.values())


def test_refusals_say_what_is_missing(tmp_path: Path) -> None:
    for name in LAYOUTS:
        write_layout(tmp_path / name, name)
    sdxl = recognise(tmp_path / "sdxl")
    refiner = recognise(tmp_path / "sdxl-refiner")
    assert "with the second of its two text encoders alone" in refiner.refuses["text"]
    assert refiner.why_not("text") == (f"{refiner.folder} is {refiner.what}: {refiner.refuses['text']}")
    assert sdxl.why_not("vae") is None
    assert "transformer in place of a U-Net" in recognise(tmp_path / "sd3").refuses["vae"]
    assert "T5" in recognise(tmp_path / "flux").refuses["text"]
    assert recognise(tmp_path / "pixart").refuses["vae"] == "its pipeline has no unet"
    assert "movq/" in recognise(tmp_path / "kandinsky").refuses["vae"]
    assert "takes 9 channels where latents have 4" in recognise(tmp_path / "inpainting").refuses["diffusion"]


def test_the_bundled_kind_of_folder_serves_everything_but_captions(tiny_diffusion_folder: Path) -> None:
    content = recognise(tiny_diffusion_folder)
    assert content.what == "of Stable Diffusion's layout (StableDiffusionImg2ImgPipeline)"
    assert set(content.serves) == {"vae", "text", "image", "diffusion"}


def test_an_incomplete_download_is_said_to_be_one(tmp_path: Path) -> None:
    model = write_layout(tmp_path / "sd15", "sd15")
    shutil.rmtree(model / "tokenizer")
    (model / "vae" / "model.fp16.safetensors").unlink()
    (model / "text_encoder" / "model.fp16.safetensors").rename(model / "text_encoder" / "pytorch_model.bin")
    unfinished = model / ".cache" / "huggingface" / "download" / "unet"
    unfinished.mkdir(parents=True)
    (unfinished / "x.incomplete").touch()
    content = recognise(model)
    assert content.refuses["vae"] == f"{model / 'vae'} holds no weights"
    assert "pytorch_model.bin only, which is a pickle and can run code" in content.refuses["text"]
    assert content.refuses["diffusion"] == content.refuses["vae"]
    said = " | ".join(content.problems)
    assert "it lacks its tokenizer/ folder: the download is not complete" in said
    assert "1 files are not fetched to the end (x.incomplete …)" in said
    assert "unet" not in content.refuses


@pytest.mark.parametrize("component", ["text_encoder_2", "tokenizer_2"])
def test_sdxl_needs_both_text_encoders(tmp_path: Path, component: str) -> None:
    model = write_layout(tmp_path / "sdxl", "sdxl")
    shutil.rmtree(model / component)
    content = recognise(model)
    assert content.refuses["text"] == f"it lacks its {component}/ folder: the download is not complete"
    assert content.refuses["diffusion"] == content.refuses["text"]
    assert "vae" in content.serves


def test_a_u_net_without_weights_still_says_the_size_of_images(tmp_path: Path) -> None:
    model = write_layout(tmp_path / "sd15", "sd15")
    (model / "unet" / "model.fp16.safetensors").unlink()
    content = recognise(model)
    assert "vae" in content.serves
    assert content.refuses["diffusion"] == f"{model / 'unet'} holds no weights"


def test_missing_shards_of_weights_are_counted(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model-00001-of-00002.safetensors").touch()
    said = f"{tmp_path} lacks 1 of 2 files of weights (model-00002-of-00002.safetensors …)"
    assert weights_problem(tmp_path) == said
    (tmp_path / "model-00002-of-00002.safetensors").touch()
    assert weights_problem(tmp_path) is None
    (tmp_path / "model.safetensors.index.json").unlink()
    assert weights_problem(tmp_path) == f"{tmp_path} lacks the index of its 2 files of weights"


def test_one_variant_of_the_weights_is_enough(tmp_path: Path) -> None:
    for name, shard in (("model.safetensors.index.json", "model"), ("model.safetensors.index.fp16.json", "model.fp16")):
        index = {"weight_map": {str(n): f"{shard}-0000{n}-of-00002.safetensors" for n in (1, 2)}}
        (tmp_path / name).write_text(json.dumps(index))
    (tmp_path / "model.fp16-00001-of-00002.safetensors").touch()
    assert "lacks 1 of 2 files of weights (model.fp16-00002-of-00002" in str(weights_problem(tmp_path))
    (tmp_path / "model.fp16-00002-of-00002.safetensors").touch()
    assert weights_problem(tmp_path) is None


@pytest.mark.parametrize(
    ("kind", "what", "tower"),
    [
        ("clip-vision", "a CLIP image tower", "image"),
        ("dinov2", "a DINOv2 model", "dinov2"),
        ("dinov2-registers", "a DINOv2 model with registers", "dinov2"),
        ("siglip", "a SigLIP model", "siglip"),
        ("siglip-vision", "a SigLIP image tower", "siglip"),
    ],
)
def test_a_bare_image_tower_is_known_by_its_type(
    tiny_tower: Callable[[str], Path], kind: str, what: str, tower: str
) -> None:
    content = recognise(tiny_tower(kind))
    assert (content.what, content.tower, content.serves) == (what, tower, ("image",))
    assert f"--towers NAME={tiny_tower(kind)}" in content.refuses["vae"]


def test_other_bare_folders(tiny_diffusion_folder: Path, tiny_blip_folder: Path) -> None:
    clip, vae, blip, unet = (
        recognise(folder)
        for folder in (
            tiny_diffusion_folder / "clip",
            tiny_diffusion_folder / "vae",
            tiny_blip_folder,
            tiny_diffusion_folder / "unet",
        )
    )
    assert (clip.what, clip.tower) == ("a CLIP model", "image")
    assert (vae.what, vae.tower) == ("a VAE (AutoencoderKL)", "vae-vector")
    assert (blip.what, blip.tower, blip.serves) == ("a BLIP captioner", None, ("captions",))
    assert (unet.what, unet.serves) == ("a model of type 'UNet2DConditionModel'", ())


def test_folders_that_are_no_models(tmp_path: Path, tiny_tower: Callable[[str], Path]) -> None:
    def folder(name: str, *files: str) -> Path:
        made = tmp_path / name
        made.mkdir()
        for file in files:
            (made / file).parent.mkdir(exist_ok=True)
            (made / file).write_text("{}")
        return made

    lora = recognise(folder("lora", "pytorch_lora_weights.safetensors"))
    assert (lora.what, lora.serves) == ("a LoRA", ())
    assert "only changes the weights of another model" in lora.refuses["diffusion"]
    assert recognise(folder("peft", "adapter_config.json", "adapter_model.safetensors")).what == "a LoRA"
    single = recognise(folder("single", "v1-5-pruned.safetensors"))
    assert single.what == "a single-file checkpoint"
    assert "must be converted to a folder first" in single.refuses["vae"]
    assert recognise(tmp_path / "single" / "v1-5-pruned.safetensors").what == "a single file"
    assert recognise(folder("empty")).refuses["vae"] == "it has neither model_index.json nor config.json"
    assert recognise(tmp_path / "nowhere").what == "no folder"

    adapter = folder("ip", "models/ip-adapter_sd15.safetensors")
    shutil.copytree(tiny_tower("clip-vision"), adapter / "models" / "image_encoder")
    content = recognise(adapter)
    assert (content.what, content.serves) == ("an IP-Adapter", ())
    assert f"its image tower is in {adapter / 'models' / 'image_encoder'}" in content.refuses["image"]
    content = recognise(adapter / "models")
    assert (content.what, content.tower, content.serves) == ("an IP-Adapter", "image", ("image",))


@pytest.mark.parametrize("text", ["{", "[1]", ""])
def test_damaged_configurations_raise_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert recognise(tmp_path).serves == ()
    (tmp_path / "model_index.json").write_text(text)
    assert recognise(tmp_path).what == "a model of diffusers' unnamed pipeline"
    assert clip_image_folder(tmp_path) is None


def test_open_clip_s_folder_is_read_as_what_has_weights(tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text("{}")
    (tmp_path / "open_clip_model.safetensors").touch()
    assert recognise(tmp_path).tower == "open-clip"
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": {}}))
    assert recognise(tmp_path).tower == "open-clip"
    (tmp_path / "model.safetensors").touch()
    assert recognise(tmp_path).tower == "image"
