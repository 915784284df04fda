"""A run of untrained networks for the tiny data set and the tiny model: what `reconstruct` reads of a run, in a second.

Beside it what tests of drawn images compare: files byte for byte, pixels up to one grey level.
"""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

STAGES = ("saliency", "semantic", "semantic_detailed", "diffusion")


def network(n_channels: int = 6) -> dict[str, Any]:
    """Configuration of an EEGEncoder for the tiny data set."""
    from neuroimagen.trainer.networks.encoders.registry import encoder_config

    encoder = encoder_config(feature_size=8, kernel_samples=5, stride_samples=2)
    return {"n_channels": n_channels, "n_samples": 20, "encoder": dataclasses.asdict(encoder)}


def write_untrained_exports(run: Path, model: Path, stages: Sequence[str] = STAGES) -> Path:
    """Write RUN/<stage>/export of `stages` with random weights; returns `run`.

    model: the tiny model's folder, whose U-Net stands for the fine-tuned one of the diffusion stage.
    """
    import torch

    from neuroimagen.trainer.networks.gan import SaliencyModel
    from neuroimagen.trainer.networks.semantic import SemanticModel

    torch.manual_seed(0)
    for stage in stages:
        export = run / stage / "export"
        if stage == "saliency":
            saliency = SaliencyModel(encoder=network(), noise_size=5, image_size_px=16, width=16)
            saliency.save_pretrained(export)
        else:
            semantic = SemanticModel(encoder=network(), text_shape=(24, 32), hidden_size=8, head_dropout=0.0)
            semantic.save_pretrained(export)
        if stage == "diffusion":
            shutil.copytree(model / "unet", export / "unet")
    return run


def write_untrained_run(
    run: Path, *, data: Path, model: Path, stages: Sequence[str] = ("saliency", "semantic"), **sections: dict[str, Any]
) -> Path:
    """The exports and a recipe, whose `sections` replace or join the recipe's; returns `run`."""
    import yaml

    recipe = {
        "data": {"path": str(data)},
        "model": {"path": str(model)},
        "reconstruct": {"steps": 4, "guidance": 2.0},
        **sections,
    }
    write_untrained_exports(run, model, stages)
    (run / "config.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return run


def files(folder: Path) -> dict[str, bytes]:
    """Name → content of the files in a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def close(first: np.ndarray, second: np.ndarray) -> bool:
    """Equal up to one grey level: what the rounding of another batch may change."""
    return int(np.abs(first.astype(int) - second.astype(int)).max()) <= 1
