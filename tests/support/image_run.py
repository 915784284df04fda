"""A run whose images are drawn from image embeddings: the tiny model with an IP-Adapter, cached embeddings, and an
untrained alignment stage.
"""

import shutil
from pathlib import Path

import numpy as np
import torch
from small_study import write_latents
from tiny_families import EMBEDDING_SIZE, write_tiny_ip_adapter
from untrained_run import network, write_untrained_exports

from neuroimagen.data_shards.dataset.dataset import Dataset


def write_image_model(folder: Path, model: Path) -> Path:
    """A copy of the tiny model that has an IP-Adapter of its own."""
    shutil.copytree(model, folder)
    write_tiny_ip_adapter(folder / "ip_adapter" / "ip_adapter.safetensors", folder, embedding_size=EMBEDDING_SIZE)
    return folder


def write_alignment(run: Path, data: Path, model: Path, *, kind: str = "image") -> None:
    """An untrained alignment stage for `kind`, which knows the mean and the length of the training targets."""
    from neuroimagen.trainer.networks.alignment import AlignmentModel

    torch.manual_seed(1)
    alignment = AlignmentModel(
        encoder=network(),
        embedding_sizes={kind: EMBEDDING_SIZE},
        head="linear",
        head_dropout=0.0,
        centre_targets=True,
        logit_scale=10.0,
        learn_logit_scale=False,
    )
    dataset = Dataset.open(data)
    stimuli = np.unique(dataset.index.stimulus[dataset.rows("train")])
    alignment.fit_targets({kind: dataset.latents(kind, model=str(model))}, stimuli)
    alignment.save_pretrained(run / "alignment" / "export")


def write_image_run(folder: Path, *, data: Path, model: Path) -> tuple[Path, Path, Path]:
    """(run, data set, model): copies of the tiny `data` and `model` with all that image embeddings need."""
    model = write_image_model(folder / "model", model)
    data = Path(shutil.copytree(data, folder / "data"))
    write_latents(data, model, kinds=("image",))
    run = write_untrained_exports(folder / "run", model, ("saliency", "semantic", "semantic_detailed"))
    write_alignment(run, data, model)
    return run, data, model
