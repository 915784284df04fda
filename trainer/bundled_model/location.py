"""The embedded model: where it is. `neuroimagen.trainer.bundled_model.training` makes it again."""

from pathlib import Path

from neuroimagen.data_shards.common.errors import UserError

EMBEDDED = "embedded"
"""What a recipe writes as `model.path` for the model that ships with the package."""


def embedded_model_path() -> Path:
    """Folder of the shipped model, in the layout of diffusers. Raises UserError if it is not there."""
    folder = Path(__file__).resolve().parent / "weights"
    if not (folder / "model_index.json").is_file():
        raise UserError(
            f"the embedded model is missing from {folder}. `make embedded-model` trains it (about an hour)."
        )
    return folder


def resolve_model_path(path: str) -> Path:
    """`embedded`, or a folder in the layout of diffusers. Raises UserError when there is no model_index.json in it."""
    if path == EMBEDDED:
        return embedded_model_path()
    folder = Path(path).expanduser()
    if not (folder / "model_index.json").is_file():
        raise UserError(
            f"{folder} holds no model_index.json: it is not a diffusers model folder. "
            f"Give the folder that has vae/, unet/ and text_encoder/ in it, or '{EMBEDDED}'."
        )
    return folder
