"""Where the bundled model is. `neuroimagen.trainer.bundled_model.training` makes it again."""

from pathlib import Path

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.recognise import recognise

BUNDLED = "bundled"
"""What a recipe writes as `model.path` for the model that ships with the package."""
_FORMER_NAME = "embedded"
"""What recipes and runs of earlier versions write instead."""


def present_name(path: str) -> str:
    """A model's path as a recipe writes it now: `embedded`, the bundled model's former name, becomes `bundled`."""
    return BUNDLED if path == _FORMER_NAME else path


def bundled_model_path() -> Path:
    """Folder of the shipped model, in the layout of diffusers. Raises UserError if it is not there."""
    folder = Path(__file__).resolve().parent / "bundled_64px"
    if not (folder / "model_index.json").is_file():
        raise UserError(
            f"the bundled model is missing from {folder}. `make bundled-model` trains it (about two hours)."
        )
    return folder


def model_path(path: str) -> Path:
    """The folder that `path` stands for, whether or not there is a model in it."""
    return bundled_model_path() if present_name(path) == BUNDLED else Path(path).expanduser()


def resolve_model_path(path: str) -> Path:
    """`bundled`, or a folder in the layout of diffusers. Raises UserError when there is no model_index.json in it."""
    folder = model_path(path)
    if not (folder / "model_index.json").is_file():
        content = recognise(folder)
        raise UserError(
            f"{folder} holds no model_index.json: it is {content.what}, not a diffusers model folder. "
            f"Give the folder that has vae/, unet/ and text_encoder/ in it, or '{BUNDLED}'. Of what is there: "
            f"{content.refuses['diffusion']}."
        )
    return folder
