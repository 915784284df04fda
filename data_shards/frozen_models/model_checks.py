"""Checks of a model folder's configurations before a library acts on them: no code, no quantised weights, sane numbers.

transformers, diffusers and our own networks build what a configuration says. A layer count of 10^9, a scaling factor of
0 or a noise schedule of 10^11 steps would take hours, all memory, or give images of NaN.
"""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.limits import (
    MAX_IMAGE_SIDE,
    MAX_LAYERS,
    MAX_MODEL_SIZE,
    MAX_SCHEDULER_STEPS,
    MAX_TABLE_NUMBERS,
)
from neuroimagen.data_shards.common.reading import read_json, reason, require_file

_NUMBERS_IN = ("config.json", "scheduler_config.json", "preprocessor_config.json")
"""Files whose numbers are checked: those of a tokenizer say "no limit" as 10^30."""
_MAY_BE_INFINITE = ("lambda_min_clipped",)
_COUNTS_LAYERS = re.compile(r"(.*_)?(depth|layers|num_layers|blocks|layers_per_block)")
_POSITIVE = re.compile(
    r"(hidden|intermediate|patch|image|vocab|sample|embed|feature|noise|latent)_(size|dim)|.*_channels|.*channels_out|"
    r"num_(.*_)?(heads|layers)|projection_dim|max_position_embeddings|.*_size_px|width"
)
_IMAGE_SIDE = re.compile(r"(image_|sample_|crop_)?(size|height)|(image_)?width|(shortest|longest)_edge|.*_size_px")
_ROWS = ("vocab_size", "max_position_embeddings", "intermediate_size", "hidden_size", "projection_dim")
_BETAS = ("beta_start", "beta_end")
_NUMBERS = (*_BETAS, "scaling_factor", "shift_factor", "num_train_timesteps")


def check_model_folder(folder: Path) -> None:
    """Raise UserError naming the file and key that no model folder has. Sub-folders are checked when they are loaded.

    Everything in the folder has to be a regular file or a folder, because libraries open what they find.
    """
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            continue
        try:
            require_file(path)
            content = read_json(path) if path.suffix == ".json" else None
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {reason(error)}. Fetch the model folder again.") from None
        if path.name in _NUMBERS_IN:
            if not isinstance(content, dict):
                raise UserError(f"{path} holds no JSON object. Fetch the file again.")
            check_configuration(content, where=path)


def check_configuration(content: Mapping[str, Any], *, where: Path) -> None:
    """Raise UserError naming the key whose value no network can have."""
    for key, value in _entries(content):
        problem = _problem(key, value)
        if problem is not None:
            raise UserError(f"{where}: {key} is {str(value)[:80]}, but {problem}. Fetch the model again.")
    for part in (content, *(value for _, value in _entries(content) if isinstance(value, Mapping))):
        width = part.get("hidden_size", 1)
        for key in _ROWS:
            rows = part.get(key, 1)
            # The table would be made at its full size before it is compared with the weights.
            if isinstance(rows, int) and isinstance(width, int) and rows * width > MAX_TABLE_NUMBERS:
                raise UserError(
                    f"{where}: {key} is {rows} and hidden_size {width}, but a table of embeddings has at most "
                    f"{MAX_TABLE_NUMBERS:,} numbers. Fetch the model again."
                )


def _entries(tree: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth; items of a list under the list's key."""
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            yield name, value
            yield from _entries(value, name)
    elif isinstance(tree, list):
        for value in tree:
            if not isinstance(value, Mapping | list):
                yield key, value
            yield from _entries(value, key)


def _problem(key: str, value: Any) -> str | None:
    """What is wrong with a value, as a clause."""
    if key == "quantization_config" and value is not None:
        return "quantised weights are not read: take the model with plain weights"
    if isinstance(value, str) and (_POSITIVE.fullmatch(key) or _COUNTS_LAYERS.fullmatch(key)):
        return "it has to be a number"
    if key in _NUMBERS and isinstance(value, str | bool | list | Mapping):
        return "it has to be a number"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not math.isfinite(value) and key not in _MAY_BE_INFINITE:
        return "it has to be a finite number"
    if isinstance(value, int) and abs(value) > MAX_MODEL_SIZE:
        return f"at most {MAX_MODEL_SIZE:,} is possible"
    if _IMAGE_SIDE.fullmatch(key) and value > MAX_IMAGE_SIDE:
        return f"images have at most {MAX_IMAGE_SIDE:,} pixels in width and height"
    if key == "num_train_timesteps" and not 1 <= value <= MAX_SCHEDULER_STEPS:
        return f"a noise schedule has 1 to {MAX_SCHEDULER_STEPS:,} timesteps"
    if key in _BETAS and not 0 < value < 1:
        return "it has to lie between 0 and 1"
    if key == "scaling_factor" and value <= 0:
        return "latents are divided by it, so it has to be positive"
    if _COUNTS_LAYERS.fullmatch(key) and value > MAX_LAYERS:
        return f"at most {MAX_LAYERS:,} layers are possible"
    if isinstance(value, int) and _POSITIVE.fullmatch(key) and value < 1:
        return "it has to be at least 1"
    return None
