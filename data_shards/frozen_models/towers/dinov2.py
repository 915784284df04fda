"""DINOv2 (Oquab et al. 2023), with or without registers, from a folder of transformers' model."""

from pathlib import Path

import torch

from neuroimagen.data_shards.frozen_models.loading import load_transformer
from neuroimagen.data_shards.frozen_models.model_folder import read_config
from neuroimagen.data_shards.frozen_models.towers.transformer import OwnFolderTower, VisionNetwork, VisionSizes


class Dinov2Tower(OwnFolderTower):
    """Class token or mean of the patch tokens, [D]."""

    what = "a DINOv2 model"
    model_types = ("dinov2", "dinov2_with_registers")
    pools = ("cls", "mean")

    def sizes(self, network: Path) -> VisionSizes:
        config = read_config(network)
        registers = config.whole_number("num_register_tokens", 4, at_least=0) if config["model_type"] != "dinov2" else 0
        return VisionSizes(
            width=config.whole_number("hidden_size", 768),
            num_blocks=config.whole_number("num_hidden_layers", 12),
            image_px=config.whole_number("image_size", 224),
            num_prefix_tokens=1 + registers,
            projection=None,
        )

    @staticmethod
    def load_network(network: Path, *, device: torch.device) -> VisionNetwork:
        from transformers import Dinov2Model, Dinov2WithRegistersModel

        registers = read_config(network)["model_type"] != "dinov2"
        return VisionNetwork(
            model=load_transformer(Dinov2WithRegistersModel if registers else Dinov2Model, network).to(device),
            blocks="layer",
            final_norm="layernorm",
            normed=True,
            projection=None,
            resizes={},  # it interpolates its position embeddings without being asked
        )
