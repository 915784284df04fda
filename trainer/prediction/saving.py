# pyright: basic
"""Writes a pipeline into one folder, and uploads it: what one condition needs, in safetensors, JSON and YAML only."""

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from neuroimagen import __version__
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.files import atomic_folder, write_text
from neuroimagen.trainer.bundled_model.location import bundled_model_path
from neuroimagen.trainer.evaluation.results import RESULTS_FILE
from neuroimagen.trainer.prediction.model_card import model_card
from neuroimagen.trainer.prediction.opening import MODEL_FOLDER, PIPELINE_FILE, Opened
from neuroimagen.trainer.recipe.recipe import recipe_tree
from neuroimagen.trainer.reconstruction.drawing import Drawing
from neuroimagen.trainer.reconstruction.headline import choice_file
from neuroimagen.trainer.reconstruction.pipelines.generator import model_digest

_UNSAFE = ("*.bin", "*.ckpt", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.msgpack", "*.h5", "*.onnx", ".git", ".cache")
"""Weights in forms that are not read, and what else a model folder may hold that is not the model's."""


def write_pipeline(
    folder: Path, opened: Opened, drawing: Drawing, condition: str, *, copy_model: bool, names_only: bool = False
) -> None:
    """Write the pipeline of a condition, whole or not at all.

    names_only: a model that is not copied is named by its folder's name, because the path would mean nothing elsewhere.
    Raises UserError if the folder exists and is not empty.
    """
    if folder.exists() and folder.resolve() == opened.folder.resolve():
        raise UserError(f"{folder} is the folder that the pipeline was loaded from. Choose another.")
    with atomic_folder(folder) as place:
        for export in drawing.allowed.needs(condition):
            below = export.relative_to(opened.folder)
            if ".." in below.parts:
                raise UserError(f"{export} is not in {opened.folder}, so it cannot be saved with it.")
            _copy(export, place / below)
        opened.description.write(place)
        (place / "config.yaml").write_text(
            yaml.safe_dump(_recipe(place, opened, copy_model=copy_model, names_only=names_only), sort_keys=False),
            encoding="utf-8",
        )
        about: dict[str, Any] = {
            "condition": condition,
            "made_of": drawing.made_of(condition),
            "model_digest": model_digest(drawing.model, drawing.adapters),
            "neuroimagen": __version__,
        }
        (place / PIPELINE_FILE).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        for path in (choice_file(opened.folder), opened.folder / "report" / RESULTS_FILE):
            if path.is_file():
                _copy(path, place / path.relative_to(opened.folder))
        write_text(place / "README.md", model_card(opened, drawing, condition))


def push_pipeline(
    repo_id: str, opened: Opened, drawing: Drawing, condition: str, *, copy_model: bool, private: bool
) -> str:
    """Upload the pipeline of a condition to a repository of the hub, made if it is not there; returns its address."""
    import huggingface_hub

    with tempfile.TemporaryDirectory(prefix="neuroimagen-") as scratch:
        folder = Path(scratch) / "pipeline"
        write_pipeline(folder, opened, drawing, condition, copy_model=copy_model, names_only=True)
        try:
            hub = huggingface_hub.HfApi()
            address = hub.create_repo(repo_id, private=private, exist_ok=True)
            hub.upload_folder(
                repo_id=repo_id, folder_path=str(folder), commit_message=f"neuroimagen {__version__}: {condition}"
            )
        except Exception as error:  # the hub's errors and those of the network have many types
            reason = str(error).strip().splitlines()
            raise UserError(
                f"{repo_id} was not uploaded ({type(error).__name__}{': ' + reason[0] if reason else ''}). Log in with "
                "`hf auth login`, with a token that may write, and try again."
            ) from error
    return str(address)


def _recipe(place: Path, opened: Opened, *, copy_model: bool, names_only: bool) -> dict[str, Any]:
    """The recipe's sections `model` and `reconstruct`; the files that they name are copied into `place`."""
    recipe, model = opened.recipe, opened.model
    adapters = {}
    for name, adapter in recipe.model.ip_adapters.items():
        if adapter.is_new:  # it is in the export of the diffusion stage
            adapters[name] = adapter
            continue
        _copy(Path(adapter.path).expanduser(), place / "ip_adapters" / name)
        adapters[name] = replace(adapter, path=f"ip_adapters/{name}")
    if model.resolve() == bundled_model_path().resolve():
        path = "bundled"
    elif copy_model or model == opened.folder / MODEL_FOLDER:
        _copy(model, place / MODEL_FOLDER)
        path = MODEL_FOLDER
    else:
        path = model.resolve().name if names_only else str(model.resolve())
    tree = recipe_tree(replace(recipe, model=replace(recipe.model, path=path, ip_adapters=adapters)))
    return {"model": tree["model"], "reconstruct": tree["reconstruct"]}


def _copy(source: Path, target: Path) -> None:
    """Copy a file, or a folder without weights in forms that are not read."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(*_UNSAFE))
        return
    if target.parent.name == "ip_adapters":  # a folder that holds one file: its name says what the adapter is
        target.mkdir()
        target = target / source.name
    shutil.copyfile(source, target)
