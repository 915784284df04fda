# pyright: basic
"""Finds what a pipeline is loaded from: a run, a folder that a pipeline was saved in, or a repository of the hub."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.reading import read_json_object
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.new_eeg.description import INPUT_FILE, InputDescription
from neuroimagen.trainer.bundled_model.location import BUNDLED, resolve_model_path
from neuroimagen.trainer.recipe.recipe import Recipe, load_recipe
from neuroimagen.trainer.reconstruction.pipelines.generator import model_digest
from neuroimagen.trainer.runs.find_run import require_run

PIPELINE_FILE = "pipeline.json"
MODEL_FOLDER = "model"
"""Where a saved pipeline has its copy of the diffusion model."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_FILES = ("*.json", "*.yaml", "*.safetensors", "*.txt", "*.md", "*.model")
"""What is downloaded of a repository: nothing that would have to be unpickled."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """What a pipeline is made from."""

    folder: Path
    recipe: Recipe
    description: InputDescription
    model: Path
    """Folder of the diffusion model."""
    condition: str | None = None
    """The condition that a pipeline was saved for; None: a run."""


def open_pipeline(
    source: Path | str,
    *,
    data: Path | str | None = None,
    model: Path | str | None = None,
    settings: Sequence[str] = (),
    revision: str | None = None,
) -> Opened:
    """Open a run, a saved pipeline or a repository. The arguments are those of Pipeline.from_pretrained."""
    folder = _folder(source, revision)
    require_run(folder)
    recipe = load_recipe(folder / "config.yaml", settings)
    saved = _read_saved(folder)
    path = _model_folder(folder, recipe, saved, model)
    adapters = {
        name: replace(adapter, path=str(folder / adapter.path)) if (folder / adapter.path).exists() else adapter
        for name, adapter in recipe.model.ip_adapters.items()
    }
    recipe = replace(recipe, model=replace(recipe.model, ip_adapters=adapters))
    if "model_digest" in saved and (found := model_digest(path, adapters)) != saved["model_digest"]:
        raise UserError(
            f"{path} is not the diffusion model that {folder} was saved with (digest {found}, not "
            f"{saved['model_digest']}), so it would draw other images. Give the folder of that one with model=…."
        )
    return Opened(
        folder=folder,
        recipe=recipe,
        description=run_description(folder, recipe, data),
        model=path,
        condition=saved.get("condition"),
    )


def _folder(source: Path | str, revision: str | None) -> Path:
    """The local folder of what is to be opened. A repository is downloaded."""
    text, path = str(source), Path(source).expanduser()
    named = text.startswith("hf://")
    text = text.removeprefix("hf://")
    # A path that is misspelt is no repository: the folder that it should lie in is there.
    is_hub = named or not (isinstance(source, Path) or path.exists() or path.parent.is_dir())
    if not (is_hub and _HUB_ID.fullmatch(text)):
        if revision is not None:
            raise UserError(f"revision is for repositories of the hub, and {source} is none.")
        return path
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(text, revision=revision, allow_patterns=list(_HUB_FILES)))
    except Exception as error:  # the hub's errors and those of the network have many types
        reason = str(error).strip().splitlines()
        raise UserError(
            f"{text} is no folder, and cannot be loaded from the Hugging Face hub ({type(error).__name__}"
            f"{': ' + reason[0] if reason else ''}). Give the path of a run, or log in with `hf auth login` where the "
            "repository is private."
        ) from error


def _read_saved(folder: Path) -> dict[str, Any]:
    """What a saved pipeline says of itself; {} for a run."""
    path = folder / PIPELINE_FILE
    if not path.is_file():
        return {}
    try:
        tree = read_json_object(path)
        return {"condition": str(tree["condition"]), "model_digest": str(tree["model_digest"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error!r}). Save the pipeline again.") from None


def _model_folder(folder: Path, recipe: Recipe, saved: dict[str, Any], model: Path | str | None) -> Path:
    """The folder of the diffusion model: the one that is given, the copy in the saved pipeline, or the recipe's."""
    if model is not None:
        return resolve_model_path(str(model))
    own = folder / recipe.model.path
    if saved and recipe.model.path != BUNDLED and (own / "model_index.json").is_file():
        return own
    try:
        return resolve_model_path(recipe.model.path)
    except UserError as error:
        raise UserError(f"{error} If the model is elsewhere now, give its folder with model=…, or --model.") from None


def run_description(folder: Path, recipe: Recipe, data: Path | str | None) -> InputDescription:
    """The EEG that a run takes: as the folder says it, else as the run's data set does."""
    if data is None and (found := InputDescription.read(folder)) is not None:
        return found
    path = recipe.data.path if data is None else str(data)
    if path is None:
        raise UserError(
            f"{folder} has no {INPUT_FILE} and names no data set. Give the data set: data=…, or --data DIR."
        )
    try:
        return InputDescription.of(Dataset.open(path).metadata)
    except UserError as error:
        raise UserError(
            f"{folder} has no {INPUT_FILE} (it was trained by an earlier version), so its data set says what EEG it "
            f"takes: {error} If it is elsewhere now, give it with data=…, or --data DIR."
        ) from error
