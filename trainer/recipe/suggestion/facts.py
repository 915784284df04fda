"""What a recipe is chosen by: facts of a data set's tables and of a model folder's configurations."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.frozen_models.latent_kinds import KINDS, latent_kind
from neuroimagen.data_shards.frozen_models.model_folder import ModelFolders
from neuroimagen.data_shards.frozen_models.recognise import recognise
from neuroimagen.data_shards.latent_cache.cache import applicable_kinds
from neuroimagen.trainer.bundled_model.location import BUNDLED, resolve_model_path
from neuroimagen.trainer.reconstruction.pipelines.conditioning import UNCLIP
from neuroimagen.trainer.reconstruction.pipelines.model_sizes import read_sizes


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a recipe is chosen by."""

    n_channels: int
    n_samples: int
    sfreq: float
    num_classes: int
    num_train: int
    """Training segments."""
    num_train_stimuli: int
    train_class_sizes: tuple[int, ...]
    """Training segments of each class that has any."""
    tests_seen_classes: bool
    """Whether every test class has training segments; else the split is zero-shot."""
    kinds: tuple[str, ...]
    """Kinds of latent that the model can make of the stimuli."""
    takes_image: bool = False
    """Whether the model draws from an image embedding of kind `image`: by an IP-Adapter, or as unCLIP."""
    embedding_sizes: Mapping[str, int]
    """Kind of image embedding → its length."""
    sizes: Mapping[str, Any]
    """Of the model: text_shape, latent_shape, image_size_px, as far as its folder says them."""


def read_facts(dataset: Dataset, model: Path) -> Facts:
    """Read them from a data set's tables and a model folder's configurations. Raises UserError for an unusable one."""
    index, metadata = dataset.index, dataset.metadata
    train, test = dataset.rows("train"), dataset.rows("test")
    labels, counts = np.unique(index.label[train], return_counts=True)
    folders = ModelFolders(model=model)
    kinds, _ = applicable_kinds(dataset, folders)
    sizes: dict[str, Any] = {}
    if "vae" in kinds:
        _, *latent = latent_kind("vae").shape(folders)
        sizes["latent_shape"] = list(latent)
    if "text-class" in kinds:
        sizes["text_shape"] = list(latent_kind("text-class").shape(folders))
    takes_image = False
    if recognise(model).why_not("diffusion") is None:
        drawing = read_sizes(model)
        takes_image = UNCLIP in drawing.image_sizes or "image" in drawing.targets.values()
    embeddings = {kind: latent_kind(kind).shape(folders) for kind in kinds if kind not in KINDS}
    return Facts(
        n_channels=metadata.n_channels,
        n_samples=metadata.n_samples,
        sfreq=metadata.sfreq,
        num_classes=metadata.num_classes,
        num_train=len(train),
        num_train_stimuli=len(np.unique(index.stimulus[train])),
        train_class_sizes=tuple(counts.tolist()),
        tests_seen_classes=bool(np.isin(index.label[test], labels).all()),
        kinds=tuple(kinds),
        takes_image=takes_image,
        embedding_sizes={kind: shape[0] for kind, shape in embeddings.items() if len(shape) == 1},
        sizes=sizes,
    )


def model_argument(model: str) -> tuple[str, Path]:
    """What a recipe calls a model folder, and the folder. Raises UserError where there is no diffusers model."""
    return (BUNDLED if model == BUNDLED else model), resolve_model_path(model)
