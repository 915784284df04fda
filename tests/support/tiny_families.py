"""Tiny random-weight folders of further families (tiny_models.py, tiny_sdxl.py), and IP-Adapters for any of them."""

import json
import shutil
from pathlib import Path

from tiny_models import build_tiny_diffusion_folder, build_tiny_tower

EMBEDDING_SIZE = 20
"""Width of the image embeddings of the unCLIP model: that of build_tiny_tower("clip-vision")."""


def build_tiny_unclip_folder(folder: Path, *, seed: int = 0) -> Path:
    """Write a StableUnCLIPImg2ImgPipeline with all of its components; under 2 s, 2 MB."""
    import torch
    from diffusers import DDPMScheduler, UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
    from transformers import CLIPImageProcessorPil

    build_tiny_diffusion_folder(folder, class_names=["a", "b"], seed=seed)
    for other in ("clip", "classifier"):
        shutil.rmtree(folder / other)
    config = json.loads((folder / "unet" / "config.json").read_text())
    torch.manual_seed(seed)
    changes = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 2 * EMBEDDING_SIZE}
    UNet2DConditionModel.from_config({**config, **changes}).save_pretrained(folder / "unet")
    normalizer = StableUnCLIPImageNormalizer(embedding_dim=EMBEDDING_SIZE)
    with torch.no_grad():
        normalizer.mean.normal_()
        normalizer.std.uniform_(0.5, 2.0)
    normalizer.save_pretrained(folder / "image_normalizer")
    DDPMScheduler(beta_schedule="squaredcos_cap_v2").save_pretrained(folder / "image_noising_scheduler")
    build_tiny_tower(folder / "image_encoder", "clip-vision", seed=seed)
    CLIPImageProcessorPil().save_pretrained(folder / "feature_extractor")
    index = json.loads((folder / "model_index.json").read_text())
    for name in ("safety_checker", "requires_safety_checker"):
        index.pop(name, None)
    index |= {
        "_class_name": "StableUnCLIPImg2ImgPipeline",
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
        "feature_extractor": ["transformers", "CLIPImageProcessorPil"],
        "image_normalizer": ["stable_diffusion", "StableUnCLIPImageNormalizer"],
        "image_noising_scheduler": ["diffusers", "DDPMScheduler"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def write_tiny_ip_adapter(
    file: Path, model: Path, *, embedding_size: int, seed: int = 0, width: int | None = None, num_tokens: int = 4
) -> Path:
    """Write random weights of an IP-Adapter for the U-Net in `model`, in the original layout.

    width: of its tokens, if not that of the hidden states that the U-Net attends to.
    """
    import torch
    from diffusers import UNet2DConditionModel
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)

    def weights(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * 0.5

    unet = UNet2DConditionModel.from_pretrained(model / "unet")
    width = width or unet.config.cross_attention_dim
    tensors = {
        "image_proj.proj.weight": weights(num_tokens * width, embedding_size),
        "image_proj.proj.bias": weights(num_tokens * width),
        "image_proj.norm.weight": weights(width) + 1,
        "image_proj.norm.bias": weights(width),
    }
    for number, name in enumerate(unet.attn_processors):
        if name.endswith("attn2.processor"):
            module = unet.get_submodule(name.removesuffix(".processor"))
            for letter in "kv":
                tensors[f"ip_adapter.{number}.to_{letter}_ip.weight"] = weights(module.inner_dim, width)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file)
    return file


def write_trained_adapters(export: Path, model: Path, *names: str, seed: int = 0) -> Path:
    """Write what the diffusion stage leaves after training IP-Adapters of these names beside the frozen U-Net; returns
    `export`.
    """
    folder = export / "ip_adapters"
    for place, name in enumerate(names):
        file = folder / f"{name}.safetensors"
        write_tiny_ip_adapter(file, model, embedding_size=EMBEDDING_SIZE, seed=seed + place)
    targets = dict.fromkeys(names, "image")
    (folder / "adapters.json").write_text(json.dumps(targets))
    (export / "config.json").write_text(json.dumps({"model_type": "adapter-diffusion", "targets": targets}))
    return export
