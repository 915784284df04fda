"""DINOv2 (Oquab et al. 2023), with or without registers, from a folder of transformers' model."""

from pathlib import Path

import torch

from neuroimagen.data_shards.frozen_models.loading import load_transformer
from neuroimagen.data_shards.frozen_models.model_folder import read_config
from neuroimagen.data_shards.frozen_models.recognise import read_json
from neuroimagen.data_shards.frozen_models.towers.transformer import TransformerTower, VisionNetwork, VisionSizes

_MODEL_TYPES = ("dinov2", "dinov2_with_registers")


class Dinov2Tower(TransformerTower):
    """Class token or mean of the patch tokens, [D]."""

    what = "a DINOv2 model"
    by_default = False  # it has a folder of its own
    pools = ("cls", "mean")

    def network_folder(self, folder: Path) -> Path | None:
        return folder if read_json(folder / "config.json").get("model_type") in _MODEL_TYPES else None

    def sizes(self, network: Path) -> VisionSizes:
        config = read_config(network)
        registers = int(config.get("num_register_tokens", 4)) if config["model_type"] != "dinov2" else 0
        return VisionSizes(
            width=int(config.get("hidden_size", 768)),
            num_blocks=int(config.get("num_hidden_layers", 12)),
            image_px=int(config.get("image_size", 224)),
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
