"""Opens what a stage reads, and compares it with what the recipe expects."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.joined import JoinedDataset
from neuroimagen.data_shards.dataset.latent_store import LatentStore
from neuroimagen.data_shards.format.schema import read_metadata
from neuroimagen.data_shards.frozen_models.ip_adapter import IPAdapterConfig, adapters_of
from neuroimagen.data_shards.frozen_models.latent_kinds import CaptionKind, TowerKind, VaeKind, latent_kind
from neuroimagen.data_shards.frozen_models.model_folder import ModelFolders
from neuroimagen.data_shards.frozen_models.model_folder import pooled_size as pooled_size_of
from neuroimagen.data_shards.frozen_models.model_folder import text_shape as text_shape_of
from neuroimagen.trainer.batches.stage_data import Shapes
from neuroimagen.trainer.bundled_model.location import model_path, resolve_model_path
from neuroimagen.trainer.recipe.recipe import Recipe
from neuroimagen.trainer.stages.registry import STAGES


def latent_kinds(recipe: Recipe, name: str) -> tuple[str, ...]:
    """The kinds of cached latent that a stage's batches carry."""
    needs = STAGES[name].batch_needs(recipe.stages[name])
    return needs.of_model(
        takes_pooled=needs.pooled is not None and _pooled_size(recipe) is not None,
        adapter_kinds=[adapter.target for adapter in _adapters(recipe).values()] if needs.ip_adapters else (),
    ).latents


def _adapters(recipe: Recipe) -> dict[str, IPAdapterConfig]:
    """The IP-Adapters of the recipe's model, by name."""
    return adapters_of(model_path(recipe.model.path), recipe.model.ip_adapters)


def _require_embeddings(recipe: Recipe, name: str, latents: Mapping[str, tuple[int, ...]]) -> None:
    """Raise UserError where an IP-Adapter takes image embeddings of another width than those that stage `name` reads.

    latents: shape of each kind. An adapter in the model folder counts for stages that read adapters alone: it is there
    without being asked for.
    """
    reads_adapters = STAGES[name].batch_needs(recipe.stages[name]).ip_adapters
    for adapter, config in (_adapters(recipe) if reads_adapters else recipe.model.ip_adapters).items():
        if config.target in latents and not config.is_new:
            config.read().require_embedding(adapter, config.target, latents[config.target][-1])


def _pooled_size(recipe: Recipe) -> int | None:
    """Width of the pooled state that the U-Net takes, by the model folder, and by the recipe where there is none.

    Raises UserError where both say it and differ.
    """
    folder, said = model_path(recipe.model.path), recipe.model.pooled_size
    if not (folder / "model_index.json").is_file():
        return said
    found = pooled_size_of(folder)
    if said is not None and said != found:
        raise UserError(
            f"the U-Net of {folder} takes {'no pooled state' if found is None else f'pooled states of width {found}'}, "
            f"the recipe's model.pooled_size is {said}. Correct one of them."
        )
    return found


def open_inputs(recipe: Recipe, name: str) -> tuple[Dataset, Shapes, dict[str, LatentStore]]:
    """The data set, the sizes that networks are built for, and the latents of stage `name`.

    Raises UserError when something is missing, or has other sizes than the recipe states.
    """
    if recipe.data.path is None:
        raise UserError(
            "the recipe names no data set. Set data.path to the folder that `neuroimagen data ingest` made."
        )
    folder = resolve_model_path(recipe.model.path)
    STAGES[name].check_model(recipe.stages[name], folder, recipe.model.ip_adapters)
    dataset = Dataset.open(recipe.data.path)
    subjects: Sequence[int] = recipe.data.subjects or dataset.metadata.subjects
    if more := STAGES[name].more_data(recipe.stages[name]):
        dataset = JoinedDataset([dataset, *(Dataset.open(path) for path in more)])
        subjects = (*subjects, *dataset.subjects)
    metadata = dataset.metadata
    found = {"n_channels": metadata.n_channels, "n_samples": metadata.n_samples, "num_classes": metadata.num_classes}
    for key, value in found.items():
        expected = getattr(recipe.data, key)
        if expected is not None and expected != value:
            raise UserError(
                f"{recipe.data.path} has {key} {value}, the recipe's data.{key} is {expected}. Correct one of them."
            )
    if recipe.data.sfreq is not None and abs(recipe.data.sfreq - metadata.sfreq) > 1e-3 * metadata.sfreq:
        raise UserError(
            f"{recipe.data.path} has sfreq {metadata.sfreq:g}, the recipe's data.sfreq is {recipe.data.sfreq:g}. "
            "Correct one of them."
        )
    latents: dict[str, LatentStore] = {}
    text_shape = recipe.model.text_shape or (0, 0)
    latent_shape: tuple[int, int, int] | None = None
    for kind in latent_kinds(recipe, name):
        declared = latent_kind(kind, recipe.model.towers)
        latents[kind] = open_latents(recipe, dataset, kind)
        shape = latents[kind].metadata.shape
        if isinstance(declared, VaeKind):
            latent_shape = (shape[1], shape[2], shape[3])
            text_shape = text_shape_of(resolve_model_path(recipe.model.path))
        elif isinstance(declared, CaptionKind) and declared.state == "hidden":
            text_shape = (shape[0], shape[1])
    _require_embeddings(recipe, name, {kind: store.metadata.shape for kind, store in latents.items()})
    _require("text_shape", recipe.model.text_shape, text_shape if latents else recipe.model.text_shape)
    _require("latent_shape", recipe.model.latent_shape, latent_shape or recipe.model.latent_shape)
    shapes = Shapes(
        text_shape=text_shape,
        pooled_size=_pooled_size(recipe),
        latent_shape=latent_shape,
        subjects=trained_subjects(dataset, recipe.data.subjects, subjects),
        latents={kind: store.metadata.shape for kind, store in latents.items()},
        sfreq=metadata.sfreq,
        **found,
    )
    return dataset, shapes, latents


def trained_subjects(dataset: Dataset, chosen: Sequence[int] | None, subjects: Sequence[int]) -> tuple[int, ...]:
    """Those of `subjects` who have training segments: who has none is unknown to the networks, as a new subject is.

    `chosen`: the subjects that the recipe takes of the (first) data set; None: all. Without any training segment, all.
    """
    present = set(np.unique(dataset.index.subject[dataset.rows("train", chosen)]).tolist())
    return tuple(subject for subject in subjects if subject in present) or tuple(subjects)


def open_latents(recipe: Recipe, dataset: Dataset, kind: str) -> LatentStore:
    """The cached latents of `kind` that the recipe's model, or the image tower it configures, made of a data set."""
    model = resolve_model_path(recipe.model.path)
    return dataset.latents(kind, model=str(model), tower=recipe.model.towers.get(kind))


def _require(key: str, expected: tuple[int, ...] | None, found: tuple[int, ...] | None) -> None:
    if expected is not None and expected != found:
        raise UserError(
            f"the cached latents are for {key} {list(found or ())}, the recipe's model.{key} is {list(expected)}. "
            "Correct one of them."
        )


def expected_shapes(recipe: Recipe, name: str) -> Shapes:
    """The sizes for a dry run: those the recipe states, else those of the data set and the model folder it names.

    Raises UserError naming the keys to set when neither says.
    """
    data, model = recipe.data, recipe.model
    sizes = {"n_channels": data.n_channels, "n_samples": data.n_samples, "num_classes": data.num_classes}
    subjects = data.subjects
    sfreq = data.sfreq
    unsaid = None in (*sizes.values(), sfreq) or (recipe.encoder.reads_subjects and subjects is None)
    if unsaid and data.path is not None and (Path(data.path) / "dataset.json").is_file():
        metadata = read_metadata(Path(data.path) / "dataset.json")
        sizes = {key: getattr(metadata, key) if value is None else value for key, value in sizes.items()}
        subjects = subjects or metadata.subjects
        sfreq = sfreq or metadata.sfreq
    missing = [f"data.{key}" for key, value in sizes.items() if value is None]
    if recipe.encoder.reads_subjects and subjects is None:
        missing.append("data.subjects")
    # Without a check: a recipe that states all sizes needs no model folder here.
    folders = ModelFolders(model=model_path(model.path), towers=model.towers)
    assert folders.model is not None
    if (folders.model / "model_index.json").is_file():
        STAGES[name].check_model(recipe.stages[name], folders.model, recipe.model.ip_adapters)
    text_shape = model.text_shape or text_shape_of(resolve_model_path(model.path))
    latents = {kind: _declared_shape(kind, recipe, folders) for kind in _kinds_of_all(recipe, name)}
    _require_embeddings(recipe, name, latents)
    vae = next((kind for kind in latents if isinstance(latent_kind(kind, folders.towers), VaeKind)), None)
    latent_shape = model.latent_shape
    if latent_shape is None and vae is not None:
        _, channels, height, width = latents[vae]
        latent_shape = (channels, height, width)
    if missing:
        raise UserError(f"a dry run without the data set needs {', '.join(missing)} in the recipe.")
    return Shapes(
        text_shape=text_shape,
        pooled_size=_pooled_size(recipe),
        latent_shape=latent_shape,
        subjects=subjects,
        latents=latents,
        sfreq=sfreq,
        **{key: int(value) for key, value in sizes.items() if value is not None},
    )


def _kinds_of_all(recipe: Recipe, name: str) -> tuple[str, ...]:
    """The kinds of latent of a stage, and of those that it starts from: a dry run builds them all, untrained."""
    kinds = list(latent_kinds(recipe, name))
    source = STAGES[name].starts_from(recipe.stages[name])
    if source is not None and Path(source).name in STAGES:
        kinds += [kind for kind in _kinds_of_all(recipe, Path(source).name) if kind not in kinds]
    return tuple(kinds)


def _declared_shape(kind: str, recipe: Recipe, folders: ModelFolders) -> tuple[int, ...]:
    """Shape of a latent by the recipe, else by the configurations of the folders that it names."""
    declared, model = latent_kind(kind, folders.towers), recipe.model
    if isinstance(declared, VaeKind) and model.latent_shape is not None:
        return (2, *model.latent_shape)
    if isinstance(declared, CaptionKind) and model.text_shape is not None:
        if declared.state == "hidden":
            return model.text_shape
        pooled = _pooled_size(recipe)
        return model.text_shape[1:] if pooled is None else (pooled,)
    if isinstance(declared, TowerKind) and declared.missing(folders) and declared.tower.config.path is None:
        return (model.embedding_size,)
    return declared.shape(folders)
