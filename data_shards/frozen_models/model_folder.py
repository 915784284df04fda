"""Model folders in diffusers' and transformers' layouts, as far as their configurations tell: sizes and revisions.

No weights are loaded here, and neither torch nor diffusers is imported.
"""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any, Literal

from neuroimagen.data_shards.common.errors import UserError

Component = Literal["vae", "unet", "text_encoder", "tokenizer", "scheduler"]
_HASHED_SUFFIXES = {".json", ".txt", ".safetensors"}


def require_diffusion_folder(model: Path) -> Path:
    """Return `model` if it is a folder in diffusers' layout, else raise UserError that says what is missing."""
    if not model.is_dir():
        raise UserError(
            f"model folder {model} does not exist. Give the path of a folder in diffusers' layout "
            "(`hf download <repository> --local-dir <folder>` fetches one)."
        )
    if not (model / "model_index.json").is_file():
        raise UserError(
            f"{model} has no model_index.json, so it is no diffusers model folder. A single-file checkpoint "
            "must be converted first (diffusers' scripts/convert_original_stable_diffusion_to_diffusers.py)."
        )
    return model


def component_folder(model: Path, component: Component) -> Path:
    """The sub-folder of one component of a diffusers model folder; UserError if it is absent."""
    folder = require_diffusion_folder(model) / component
    if not folder.is_dir():
        raise UserError(f"model folder {model} lacks its {component}/ folder. Is the download complete?")
    return folder


def clip_folder(model: Path) -> Path | None:
    """The folder of the CLIP model with an image tower: `model` itself or its clip/ sub-folder; None if neither."""
    for folder in (model, model / "clip"):
        if (folder / "config.json").is_file() and "vision_config" in read_config(folder):
            return folder
    return None


def read_config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """Parse a JSON configuration; UserError if it is missing or is not a JSON object."""
    path = folder / name
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing. Is the model folder complete?") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}). Fetch the file again.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} does not hold a JSON object. Fetch the file again.")
    return content


def folders_digest(*folders: Path) -> str:
    """SHA-256 (hex) of the configurations, vocabularies and safetensors in `folders`: the revision of what they hold.

    File names and contents count, the folders' own places do not: a moved or copied model keeps its revision.
    """
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(path for path in folder.iterdir() if path.suffix in _HASHED_SUFFIXES):
            status = path.stat()
            digest.update(f"{path.name}\0".encode())
            digest.update(_file_digest(path.resolve(), status.st_size, status.st_mtime_ns))
    return digest.hexdigest()


@cache  # a text encoder of half a gigabyte is asked for by several kinds of latent; size and time tell a changed file
def _file_digest(path: Path, size: int, mtime_ns: int) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def image_size_px(model: Path) -> int:
    """Side of the pictures that the model makes: the U-Net's latent size times the VAE's reduction."""
    sample_size = read_config(component_folder(model, "unet"))["sample_size"]
    if not isinstance(sample_size, int):
        raise UserError(f"{model}/unet/config.json: sample_size is {sample_size}; only square pictures are supported.")
    return sample_size * vae_reduction(model)


def vae_reduction(model: Path) -> int:
    """Pixels a latent element, per side."""
    return int(2 ** (len(read_config(component_folder(model, "vae"))["block_out_channels"]) - 1))


def text_shape(model: Path) -> tuple[int, int]:
    """(L, D): number of tokens and width of the text encoder's hidden states."""
    config = read_config(component_folder(model, "text_encoder"))
    return int(config["max_position_embeddings"]), int(config["hidden_size"])


def require_captioner_folder(folder: Path) -> Path:
    """Return `folder` if it holds a BLIP captioner, else raise UserError."""
    if not folder.is_dir():
        raise UserError(f"captioner folder {folder} does not exist. Give the folder of a BLIP captioning model.")
    if read_config(folder).get("model_type") != "blip":
        raise UserError(
            f"{folder} holds a model of type {read_config(folder).get('model_type')!r}, not BLIP's "
            "(for instance Salesforce/blip-image-captioning-base)."
        )
    return folder
