"""Model folders in the layouts of diffusers and transformers: what their configurations say of sizes and revisions.

No weights are loaded here, and neither torch nor diffusers is imported.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.limits import shortened
from neuroimagen.data_shards.common.reading import open_file, read_json, reason
from neuroimagen.data_shards.frozen_models.model_checks import check_configuration
from neuroimagen.data_shards.frozen_models.recognise import recognise
from neuroimagen.data_shards.frozen_models.towers.config import TowerConfig

Component = Literal["vae", "unet", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "scheduler"]
_HASHED_SUFFIXES = {".json", ".txt", ".safetensors"}
_WEIGHTS = re.compile(
    r"(?:model|diffusion_pytorch_model)(?:\.(?P<before>\w+))?(?:-\d{5}-of-\d{5})?(?:\.(?P<after>\w+))?\.safetensors"
)
"""What transformers and diffusers call weights: model.safetensors, model.fp16-00001-of-00002.safetensors …"""

MAX_LATENT_SIDE = 1024
MAX_VAE_BLOCKS = 8


@dataclass(frozen=True, kw_only=True)
class ModelFolders:
    """The model folders that a job encodes with."""

    model: Path | None
    """In the layout of diffusers; where only image towers are needed, a tower's own folder or None will do."""
    towers: Mapping[str, TowerConfig] = field(default_factory=dict)
    """Kind of latent → the image tower that makes it, in the configuration that the user gave."""
    captioner: Path | None = None
    """Of a BLIP captioner."""

    def tower(self, name: str) -> Path | None:
        """The folder in which an image tower looks for its network: its own if it has one, else the model's."""
        config = self.towers.get(name)
        own = None if config is None else config.folder
        return self.model if own is None else own


def require_diffusion_folder(model: Path | None) -> Path:
    """Return `model` if it is a folder in the layout of diffusers, else raise a UserError that says what it is."""
    if model is None:
        raise UserError("no model folder is given (--model).")
    if not model.is_dir() and not model.is_file():
        raise UserError(
            f"model folder {model} does not exist. Give the path of a folder in diffusers' layout "
            "(`hf download <repository> --local-dir <folder>` fetches one)."
        )
    if not (model / "model_index.json").is_file():
        raise UserError(
            f"{model} has no model_index.json, so it is not a model folder of diffusers: it is "
            f"{recognise(model).what}. {_capitalised(recognise(model).refuses['diffusion'])}."
        )
    return model


def component_folder(model: Path, component: Component) -> Path:
    """The sub-folder of one component of a diffusers model folder; UserError if it is absent."""
    folder = require_diffusion_folder(model) / component
    if not folder.is_dir():
        content = recognise(model)
        reason = content.refuses.get("diffusion", "Is the download complete?").removesuffix(".")
        raise UserError(f"model folder {model} lacks its {component}/ folder. It is {content.what}: {reason}.")
    return folder


def weights_variant(folder: Path) -> str | None:
    """The `variant` under which transformers and diffusers find a folder's safetensors: "fp16"; None for plain names.

    Raises UserError if the folder has several variants and no plain weights.
    """
    matches = [match for path in folder.glob("*.safetensors") if (match := _WEIGHTS.fullmatch(path.name))]
    variants = sorted({match["before"] or match["after"] or "" for match in matches})
    if not variants or "" in variants:
        return None
    if len(variants) > 1:
        raise UserError(
            f"{folder} has weights in the variants {', '.join(variants)} and none without a variant. Keep the files of "
            "one of them."
        )
    return variants[0]


def read_config(folder: Path, name: str = "config.json") -> "Configuration":
    """Parse a JSON configuration; UserError if it is missing, is not a JSON object, or has a number that cannot be."""
    path = folder / name
    try:
        content = read_json(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing. Is the model folder complete?") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not valid JSON ({reason(error)}). Fetch the file again.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} does not hold a JSON object. Fetch the file again.")
    check_configuration(content, where=path)
    return Configuration(path, content)


class Configuration(dict[str, Any]):
    """The object in a configuration file. What it lacks, or has of another kind, is the file's fault: errors say so."""

    def __init__(self, path: Path, content: Mapping[str, Any]) -> None:
        super().__init__(content)
        self._path = path

    def __missing__(self, key: str) -> Any:
        raise UserError(f"{self._path} has no {key!r}. Fetch the file again.")

    def whole_number(self, key: str, default: int | None = None, *, at_least: int = 1) -> int:
        """The value of a key; `default`, if one is given, where the file has no such key."""
        value = self[key] if default is None else self.get(key, default)
        if isinstance(value, int) and not isinstance(value, bool) and value >= at_least:
            return value
        raise self._of_another_kind(key, f"a whole number of at least {at_least}")

    def number(self, key: str, default: float | None = None) -> float:
        """The value of a key; `default`, if one is given, where the file has no such key."""
        value = self[key] if default is None else self.get(key, default)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        raise self._of_another_kind(key, "a number")

    def part(self, key: str) -> "Configuration":
        """The object that is the value of a key; the whole configuration where the file has no such key."""
        value = self.get(key, self)
        if isinstance(value, dict):
            return Configuration(self._path, value)
        raise self._of_another_kind(key, "a JSON object")

    def _of_another_kind(self, key: str, expected: str) -> UserError:
        found = shortened(repr(self[key]), 80)
        return UserError(f"{self._path}: {key} is {found}; expected {expected}. Fetch the file again.")


def folders_digest(*folders: Path) -> str:
    """SHA-256 (hex) of the configurations, vocabularies and safetensors in `folders`: the revision of what they hold.

    File names and contents count, the folders' paths do not: a moved or copied model keeps its revision.
    """
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(path for path in folder.iterdir() if path.suffix in _HASHED_SUFFIXES):
            digest.update(f"{path.name}\0".encode())
            digest.update(file_digest(path))
    return digest.hexdigest()


def file_digest(path: Path) -> bytes:
    """SHA-256 of a file's content; computed once while the file stays as it is."""
    status = path.stat()
    return _file_digest(path.resolve(), status.st_size, status.st_mtime_ns)


@cache  # several kinds of latent ask for the same half gigabyte; size and time tell whether the file has changed
def _file_digest(path: Path, size: int, mtime_ns: int) -> bytes:
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").digest()


def image_size_px(model: Path) -> int:
    """Side of the images that the model makes: the U-Net's latent size times the VAE's reduction."""
    sample_size = read_config(component_folder(model, "unet")).get("sample_size")
    if not isinstance(sample_size, int) or not 1 <= sample_size <= MAX_LATENT_SIDE:
        raise UserError(
            f"{model}/unet/config.json: sample_size is {str(sample_size)[:80]}; only square images are supported, of "
            f"at most {MAX_LATENT_SIDE} latent elements on a side."
        )
    return sample_size * vae_reduction(model)


def vae_reduction(model: Path) -> int:
    """Pixels per latent element, along a side."""
    return reduction_of_vae(component_folder(model, "vae"))


def reduction_of_vae(vae: Path) -> int:
    """Pixels per latent element of the VAE in a folder of its own, along a side."""
    blocks = read_config(vae).get("block_out_channels")
    if not isinstance(blocks, list) or not 1 <= len(blocks) <= MAX_VAE_BLOCKS:
        raise UserError(
            f"{vae}/config.json: block_out_channels is {str(blocks)[:80]} where a list of 1 to {MAX_VAE_BLOCKS} "
            "widths is expected. Fetch the file again."
        )
    return int(2 ** (len(blocks) - 1))


@dataclass(frozen=True, kw_only=True)
class TextLayout:
    """What the U-Net of a model folder takes of captions."""

    encoders: tuple[tuple[Component, Component], ...]
    """Text encoder and tokenizer, each pair of which reads the caption; their hidden states are joined in this order.
    With one, these are the last hidden states after the final norm; with two (SDXL), the penultimate ones.
    """
    shape: tuple[int, int]
    """(L, D): number of tokens and width of the joined hidden states."""
    pooled_size: int
    """Width of the pooled state: the end-of-text state; with two text encoders the second's, projected."""


def text_layout(model: Path) -> TextLayout:
    """What captions are to the model in a folder, by its configurations alone.

    Raises UserError for a family whose text states are not supported, and where two text encoders do not fit.
    """
    if recognise(model).family != "SDXL":
        num_tokens, width = _tower_shape(model, "text_encoder")
        return TextLayout(
            encoders=(("text_encoder", "tokenizer"),),
            shape=(num_tokens, width),
            pooled_size=width,
        )
    (num_tokens, width), (other_tokens, other_width) = (
        _tower_shape(model, "text_encoder"),
        _tower_shape(model, "text_encoder_2"),
    )
    if num_tokens != other_tokens:
        raise UserError(
            f"{model}: text_encoder takes {num_tokens} tokens and text_encoder_2 {other_tokens}, so their states "
            "cannot be joined. They are from different models; fetch the folder again."
        )
    return TextLayout(
        encoders=(("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2")),
        shape=(num_tokens, width + other_width),
        pooled_size=read_config(component_folder(model, "text_encoder_2")).whole_number("projection_dim"),
    )


def text_shape(model: Path) -> tuple[int, int]:
    """(L, D): number of tokens and width of the hidden states that the U-Net takes of a caption."""
    return text_layout(model).shape


def pooled_size(model: Path) -> int | None:
    """Width of the pooled state that the U-Net takes beside the hidden ones (SDXL); None where it takes none."""
    return text_layout(model).pooled_size if recognise(model).family == "SDXL" else None


def _tower_shape(model: Path, component: Component) -> tuple[int, int]:
    config = read_config(component_folder(model, component))
    return config.whole_number("max_position_embeddings"), config.whole_number("hidden_size")


def _capitalised(clause: str) -> str:
    return clause[:1].upper() + clause[1:]


def require_captioner_folder(folder: Path) -> Path:
    """Return `folder` if it holds a BLIP captioner, else raise UserError naming it."""
    if not folder.is_dir():
        raise UserError(f"captioner folder {folder} does not exist. Give the folder of a BLIP captioning model.")
    if read_config(folder).get("model_type") != "blip":
        raise UserError(
            f"{folder} is {recognise(folder).what}, not a BLIP captioner (for instance "
            "Salesforce/blip-image-captioning-base)."
        )
    return folder
