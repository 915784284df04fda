"""Reads what `neuroimagen reconstruct` left in a run: reconstructions/<condition>/manifest.json and its images."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.limits import MAX_IMAGE_BYTES
from neuroimagen.data_shards.common.progress import track
from neuroimagen.data_shards.common.reading import content_of, held_inside, read_bytes, read_json, reason
from neuroimagen.data_shards.format.images import decode_image

MANIFEST_FILE = "manifest.json"
_COMPARED = (
    *("seed", "samples", "steps", "scheduler", "guidance", "strength", "dtype", "model_digest"),
    *("adapter_scale", "noise_level", "prior_guidance", "prior_steps"),
)
"""Settings that the conditions of one table should share."""


@dataclass(frozen=True, kw_only=True)
class Reconstructions:
    """The images of one condition (`full`, `semantic_only`, `oracle_class`, …); arrays have one entry per image."""

    condition: str
    folder: Path
    settings: dict[str, Any]
    """Everything the manifest says beside its items: seed, model digest, strength, guidance …"""
    segments: tuple[str, ...]
    """Keys of the segments that the images were made from."""
    stimulus_keys: tuple[str, ...]
    labels: NDArray[np.int64]
    subjects: NDArray[np.int64]
    samples: NDArray[np.int64]
    """Number of the image among those of its segment."""
    files: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.files)

    def images(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The distinct images, uint8 [U, 3, S, S], and which of them each entry shows, int64 [N].

        Entries share a file where nothing depends on the segment (the mean image, for instance). Raises UserError
        naming a file that is missing, damaged or of another size.
        """
        distinct = list(dict.fromkeys(self.files))
        images: list[np.ndarray] = []
        for path in track(distinct, total=len(distinct), desc=f"reading {self.condition}", unit="image"):
            image = read_image(path)
            if images and image.shape != images[0].shape:
                raise UserError(
                    f"{path} is {image.shape[1:]} px, others of its condition are {images[0].shape[1:]}. Run "
                    "`neuroimagen reconstruct` again."
                )
            images.append(image)
        position = {path: index for index, path in enumerate(distinct)}
        return np.stack(images), np.array([position[path] for path in self.files], dtype=np.int64)


def differing_settings(reconstructions: Iterable[Reconstructions]) -> list[str]:
    """In words, the settings that are not the same in all conditions that have them: a comparison of those conditions
    measures the setting too. Conditions that start from noise have no strength to compare, whose manifests say 1."""
    values: dict[str, dict[str, list[str]]] = {}
    for made in reconstructions:
        settings = {name: made.settings.get(name) for name in _COMPARED}
        settings |= {f"the {stage} stage": digest for stage, digest in made.settings.get("exports", {}).items()}
        for name, value in settings.items():
            if value is not None and not (name == "strength" and value == 1):
                values.setdefault(name, {}).setdefault(str(value), []).append(made.condition)
    different = {name: by_value for name, by_value in values.items() if len(by_value) > 1}
    return [
        f"{name} (" + "; ".join(f"{value} in {', '.join(named)}" for value, named in by_value.items()) + ")"
        for name, by_value in different.items()
    ]


def changed_settings(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """The settings of a condition that are not the same `before` and `now`, each as "key value → value".

    `model`, the name of the model's folder, and `made_of` are for people to read. They do not count, the name where
    `model_digest` is the same, the other because what it says follows from the rest.
    """
    same_model = "model_digest" in now and before.get("model_digest") == now["model_digest"]
    ignored = ("made_of", "model") if same_model else ("made_of",)
    keys = [key for key in dict.fromkeys([*now, *before]) if key not in ignored]
    return [
        f"{key} {before.get(key)!r} → {now.get(key)!r}"
        for key in keys
        if key not in before or key not in now or before[key] != now[key]
    ]


def read_image(path: Path) -> np.ndarray:
    """An image file as uint8 RGB [3, H, W]; UserError where it cannot be read."""
    try:
        image = decode_image(read_bytes(path, limit=MAX_IMAGE_BYTES))
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read the image {path}: {reason(error)}. Run `neuroimagen reconstruct` again."
        ) from error


def load_manifest(path: Path) -> dict[str, Any]:
    """The JSON object in a manifest file, with `condition` for what earlier versions wrote as `row`.

    Raises OSError when the file cannot be read, ValueError when it holds no JSON object.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"it holds {type(content).__name__}, not an object")
    if "row" in content:
        content = {"condition": content.pop("row"), **content}
    return content


def read_manifest(folder: Path) -> Reconstructions:
    """The manifest in `folder`. Raises UserError where it is missing, no manifest, empty, or names files outside."""
    path = folder / MANIFEST_FILE
    try:
        content = load_manifest(path)
        items = content.pop("items")
        condition = str(content.pop("condition"))
        columns = {
            name: [item[name] for item in items]
            for name in ("segment", "stimulus", "label", "subject", "sample", "file")
        }
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}. Run `neuroimagen reconstruct` first.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not a manifest of reconstructions ({error!r}). Run `neuroimagen reconstruct` again."
        ) from error
    if not items:
        raise UserError(f"{path} lists no images. Run `neuroimagen reconstruct` again.")
    try:
        files = tuple(held_inside(folder, name) for name in columns["file"])
    except (ValueError, TypeError, OSError) as error:
        raise UserError(
            f"{path} names a file outside its folder: {reason(error)}. It was not written by neuroimagen; run "
            "`neuroimagen reconstruct` again."
        ) from None
    with content_of(f"use {path}", remedy="Run `neuroimagen reconstruct` again."):
        return Reconstructions(
            condition=condition,
            folder=folder,
            settings=content,
            segments=tuple(columns["segment"]),
            stimulus_keys=tuple(columns["stimulus"]),
            labels=np.array(columns["label"], dtype=np.int64),
            subjects=np.array(columns["subject"], dtype=np.int64),
            samples=np.array(columns["sample"], dtype=np.int64),
            files=files,
        )


def read_reconstructions(run: Path) -> dict[str, Reconstructions]:
    """Condition → its images, for every condition of a run; UserError where there is none."""
    folder = run / "reconstructions"
    manifests = sorted(folder.glob(f"*/{MANIFEST_FILE}")) if folder.is_dir() else []
    if not manifests:
        raise UserError(f"{run} holds no reconstructions. Run `neuroimagen reconstruct --run {run}` first.")
    return {found.condition: found for found in (read_manifest(path.parent) for path in manifests)}
