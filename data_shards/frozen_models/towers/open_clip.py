"""OpenCLIP's vision transformers (Ilharco et al. 2021) from a folder in open_clip's own layout, without that package.

The layout is open_clip_config.json beside open_clip_model.safetensors. The weights are given the names that
transformers' CLIP has for them. ResNets and towers of timm have no class there: they are refused.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.loading import loading
from neuroimagen.data_shards.frozen_models.model_folder import read_config
from neuroimagen.data_shards.frozen_models.recognise import read_json
from neuroimagen.data_shards.frozen_models.towers.clip import clip_network, clip_processor
from neuroimagen.data_shards.frozen_models.towers.transformer import TransformerTower, VisionNetwork, VisionSizes

CONFIG = "open_clip_config.json"
_CONVERSION = (
    "convert it where open_clip is installed, or choose a checkpoint in transformers' layout (a config.json of "
    "model_type clip), which most ViT checkpoints of OpenCLIP have as well"
)
_PLAIN = {"image_size", "layers", "width", "head_width", "mlp_ratio", "patch_size", "patch_dropout", "output_tokens"}
"""Settings of a vision transformer as CLIP has it."""
_AS_IN_CLIP = {"pool_type": "tok", "pos_embed_type": "learnable"}
_NAMES = {
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "ln_pre": "pre_layrnorm",
    "ln_post": "post_layernorm",
}
_BLOCK_NAMES = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


class OpenClipTower(TransformerTower):
    """Projected image embedding [P] of an OpenCLIP model in open_clip's own layout."""

    what = "an OpenCLIP model in open_clip's layout"
    by_default = False  # it has a folder of its own

    def network_folder(self, folder: Path) -> Path | None:
        return folder if "model_cfg" in read_json(folder / CONFIG) else None

    def missing(self, folder: Path) -> str | None:
        if self.network_folder(folder) is not None and (reason := _not_plain(folder)) is not None:
            return f"{folder} holds an OpenCLIP model {reason}: {_CONVERSION}"
        return super().missing(folder)

    def sizes(self, network: Path) -> VisionSizes:
        model = read_config(network, CONFIG).part("model_cfg")
        vision = model.part("vision_cfg")
        return VisionSizes(
            width=vision.whole_number("width"),
            num_blocks=vision.whole_number("layers"),
            image_px=vision.whole_number("image_size", 224),
            num_prefix_tokens=1,
            projection=model.whole_number("embed_dim"),
        )

    def processor_folder(self, folder: Path) -> Path | None:
        return None  # a preprocessor_config.json in the folder is for transformers' weights

    def default_processor_words(self, network: Path) -> str | None:
        return f"the model's {CONFIG}"

    def default_processor(self, network: Path, size_px: int | None) -> Any:
        settings = read_json(network / CONFIG).get("preprocess_cfg", {})
        given = {
            ours: settings[theirs]
            for ours, theirs in (("image_mean", "mean"), ("image_std", "std"))
            if theirs in settings
        }
        return clip_processor(network, size_px or self.sizes(network).image_px, **given)

    @staticmethod
    def load_network(network: Path, *, device: torch.device) -> VisionNetwork:
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        model = read_config(network, CONFIG).part("model_cfg")
        vision = model.part("vision_cfg")
        width, head_width = vision.whole_number("width"), vision.whole_number("head_width", 64)
        if width % head_width:
            raise UserError(f"{network / CONFIG}: width {width} is no multiple of head_width {head_width}.")
        clip = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=width,
                intermediate_size=int(width * vision.number("mlp_ratio", 4.0)),
                num_hidden_layers=vision.whole_number("layers"),
                num_attention_heads=width // head_width,
                image_size=vision.whole_number("image_size", 224),
                patch_size=vision.whole_number("patch_size", 16),
                projection_dim=model.whole_number("embed_dim"),
                hidden_act="quick_gelu" if model.get("quick_gelu") else "gelu",
            )
        )
        weights = {
            f"vision_model.{name}": value for name, value in _transformers_names(_visual_weights(network)).items()
        }
        weights["visual_projection.weight"] = weights.pop("vision_model.proj").T
        # Positions are numbered, not learnt: some versions of transformers keep the numbers among the weights.
        lacking, unknown = clip.load_state_dict(weights, strict=False)
        if unknown or (lacking := [name for name in lacking if not name.endswith("position_ids")]):
            raise UserError(f"{network}: weights {[*lacking, *unknown][:3]} … are missing or unknown. {_CONVERSION}.")
        clip = clip.float().eval().requires_grad_(False)
        return clip_network(clip.vision_model, clip.visual_projection, device)


def _not_plain(folder: Path) -> str | None:
    """What keeps transformers' CLIP from computing what open_clip would, as a clause; None if nothing does."""
    config = read_json(folder / CONFIG)
    vision = dict(config["model_cfg"].get("vision_cfg") or {})
    if vision.get("timm_model_name"):
        return f"whose image tower is timm's {vision['timm_model_name']}, which neuroimagen does not read"
    if not isinstance(vision.get("layers"), int):
        return "whose image tower is a ResNet, for which transformers has no class"
    more = [f"{key}: {value}" for key, value in vision.items() if key not in _PLAIN and value]
    more = [setting for setting in more if setting not in {f"{key}: {value}" for key, value in _AS_IN_CLIP.items()}]
    preprocessing = config.get("preprocess_cfg", {})
    more += [
        f"{key}: {preprocessing[key]}"
        for key, usual in (("interpolation", "bicubic"), ("resize_mode", "shortest"))
        if preprocessing.get(key, usual) != usual
    ]
    return f"that differs from CLIP's vision transformer ({', '.join(more)})" if more else None


def _visual_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of the image tower, in float32, by open_clip's names without their `visual.`."""
    from safetensors import safe_open

    files = sorted(folder.glob("open_clip_*.safetensors")) or sorted(folder.glob("*.safetensors"))
    found: dict[str, Tensor] = {}
    with loading(folder):
        for path in files:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - it is no mapping
                    if name.startswith("visual."):
                        found[name.removeprefix("visual.")] = file.get_tensor(name).float()
    if "proj" not in found:
        raise UserError(f"{folder}: the safetensors hold no image tower of open_clip. Fetch the folder again.")
    return found


def _transformers_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the weights of open_clip's VisionTransformer the names of transformers' CLIPVisionModel; `proj` stays."""
    named: dict[str, Tensor] = {}
    for name, value in weights.items():
        if not name.startswith("transformer.resblocks."):
            module, _, kind = name.rpartition(".")
            named[_NAMES.get(name) or (f"{_NAMES[module]}.{kind}" if module in _NAMES else name)] = value
            continue
        number, _, rest = name.removeprefix("transformer.resblocks.").partition(".")
        block = f"encoder.layers.{number}"
        if rest.startswith("attn.in_proj_"):
            kind = rest.removeprefix("attn.in_proj_")
            for part, values in zip("qkv", value.chunk(3), strict=True):
                named[f"{block}.self_attn.{part}_proj.{kind}"] = values
        else:
            module, _, kind = rest.rpartition(".")
            named[f"{block}.{_BLOCK_NAMES.get(module, module)}.{kind}"] = value
    return named
