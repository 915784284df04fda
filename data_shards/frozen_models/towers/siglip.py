"""SigLIP's image tower (Zhai et al. 2023), from a folder of transformers' SiglipModel or of its image tower alone."""

from pathlib import Path

import torch
from torch import nn

from neuroimagen.data_shards.frozen_models.loading import load_transformer
from neuroimagen.data_shards.frozen_models.model_folder import read_config
from neuroimagen.data_shards.frozen_models.towers.transformer import OwnFolderTower, VisionNetwork, VisionSizes


class SiglipTower(OwnFolderTower):
    """The attention head's embedding (`projection`) or the mean of the patch tokens, [D]. It has no class token."""

    what = "a SigLIP model"
    model_types = ("siglip", "siglip_vision_model")
    pools = ("projection", "mean")

    def sizes(self, network: Path) -> VisionSizes:
        config = read_config(network)
        vision = config.part("vision_config")
        width = vision.whole_number("hidden_size", 768)
        return VisionSizes(
            width=width,
            num_blocks=vision.whole_number("num_hidden_layers", 12),
            image_px=vision.whole_number("image_size", 224),
            num_prefix_tokens=0,
            projection=width if vision.get("vision_use_head", True) else None,
        )

    @staticmethod
    def load_network(network: Path, *, device: torch.device) -> VisionNetwork:
        from transformers import SiglipModel, SiglipVisionModel

        model = load_transformer(SiglipModel if "vision_config" in read_config(network) else SiglipVisionModel, network)
        return VisionNetwork(
            model=getattr(model, "vision_model", model).to(device),
            blocks="layers",
            final_norm="post_layernorm",
            normed=True,
            projection=nn.Identity(),
            resizes={"interpolate_pos_encoding": True},
        )
