"""A run that allows every condition: the tiny model with an IP-Adapter, cached image embeddings, and untrained networks
of every stage that images are drawn with.
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


def write_prior(run: Path) -> None:
    """An untrained prior for the embeddings of the alignment stage."""
    from neuroimagen.trainer.networks.prior import PriorModel

    torch.manual_seed(2)
    PriorModel(
        kind="image",
        condition_kind="image",
        embedding_size=EMBEDDING_SIZE,
        condition_size=EMBEDDING_SIZE,
        network="mlp",
        network_settings={"sizes": [16, 8], "time_size": 8, "dropout": 0.0},
        prediction="sample",
        sampling_steps=3,
        guidance=2.0,
    ).save_pretrained(run / "prior" / "export")


def write_vae_latent(run: Path, *, latent_shape: tuple[int, int, int] = (4, 8, 8)) -> None:
    """An untrained network that predicts latents of the tiny model."""
    from neuroimagen.trainer.networks.vae_latent import VaeLatentModel

    torch.manual_seed(3)
    VaeLatentModel(
        encoder=network(),
        latent_shape=latent_shape,
        scaling_factor=0.7,
        shift=0.0,
        head="linear",
        grid_size=4,
        head_width=8,
        head_dropout=0.0,
    ).save_pretrained(run / "vae_latent" / "export")


def write_image_run(folder: Path, *, data: Path, model: Path) -> tuple[Path, Path, Path]:
    """(run, data set, model): copies of the tiny `data` and `model` with all that any condition needs."""
    model = write_image_model(folder / "model", model)
    data = Path(shutil.copytree(data, folder / "data"))
    write_latents(data, model, kinds=("image",))
    run = write_untrained_exports(folder / "run", model)
    write_alignment(run, data, model)
    write_prior(run)
    write_vae_latent(run)
    return run, data, model
