"""CLIP's image tower (Radford et al. 2021), from a folder of transformers' CLIPModel or of its image tower alone.

OpenCLIP's checkpoints in transformers' layout are CLIPModels. IP-Adapter's and unCLIP's `image_encoder/` are
CLIPVisionModelWithProjection.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from neuroimagen.data_shards.frozen_models.loading import load_transformer, loading
from neuroimagen.data_shards.frozen_models.model_folder import read_config
from neuroimagen.data_shards.frozen_models.recognise import clip_image_folder
from neuroimagen.data_shards.frozen_models.towers.transformer import TransformerTower, VisionNetwork, VisionSizes


class ClipImageTower(TransformerTower):
    """Projected image embedding [P] of the CLIP model in a folder, in its clip/ or its image_encoder/ sub-folder."""

    what = "a CLIP model with an image tower"

    def network_folder(self, folder: Path) -> Path | None:
        return clip_image_folder(folder)

    def missing(self, folder: Path) -> str | None:
        if clip_image_folder(folder) is None:
            return (
                f"{folder} holds no CLIP model with an image tower, and neither does its clip/ or image_encoder/ folder"
            )
        return super().missing(folder)

    def sizes(self, network: Path) -> VisionSizes:
        config = read_config(network)
        vision = config.part("vision_config")
        alone = "vision_config" not in config and "CLIPVisionModel" in config.get("architectures", ())
        return VisionSizes(
            width=vision.whole_number("hidden_size", 768),
            num_blocks=vision.whole_number("num_hidden_layers", 12),
            image_px=vision.whole_number("image_size", 224),
            num_prefix_tokens=1,
            projection=None if alone else config.whole_number("projection_dim", 512),
        )

    def processor_folder(self, folder: Path) -> Path | None:
        network = self._network(folder)
        if "vision_config" in read_config(network):  # such a folder always has its own
            return network
        # unCLIP's is not in image_encoder/, but beside it.
        places = [network, *([] if network == folder else [folder / "feature_extractor", folder / "image_processor"])]
        return next((place for place in places if (place / "preprocessor_config.json").is_file()), None)

    def default_processor_words(self, network: Path) -> str | None:
        return f"CLIP's, {self.sizes(network).image_px} px"

    def default_processor(self, network: Path, size_px: int | None) -> Any:
        return clip_processor(network, size_px or self.sizes(network).image_px)

    @staticmethod
    def load_network(network: Path, *, device: torch.device) -> VisionNetwork:
        from transformers import CLIPModel, CLIPVisionModel, CLIPVisionModelWithProjection

        config = read_config(network)
        whole: type[Any] = CLIPModel if "vision_config" in config else CLIPVisionModelWithProjection
        if whole is CLIPVisionModelWithProjection and "CLIPVisionModel" in config.get("architectures", ()):
            whole = CLIPVisionModel
        clip = load_transformer(whole, network)
        return clip_network(getattr(clip, "vision_model", clip), getattr(clip, "visual_projection", None), device)


def clip_network(vision: nn.Module, projection: nn.Module | None, device: torch.device) -> VisionNetwork:
    """transformers' image tower of CLIP with its projection, on `device`; the text tower is let go."""
    return VisionNetwork(
        model=vision.to(device),
        blocks="layers",
        final_norm="post_layernorm",
        normed=False,
        projection=None if projection is None else projection.to(device),
        resizes={"interpolate_pos_encoding": True},
    )


def clip_processor(folder: Path, size_px: int, **settings: Any) -> Any:
    """CLIP's preprocessing on Pillow: the shorter side to `size_px`, centre crop, CLIP's mean and deviation."""
    # By module: the name in `transformers` itself asks for torchvision in some versions.
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    square = {"height": size_px, "width": size_px}
    with loading(folder):
        return CLIPImageProcessorPil(size={"shortest_edge": size_px}, crop_size=square, **settings)
