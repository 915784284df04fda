"""Reads what `neuroimagen reconstruct` left in a run: reconstructions/<row>/manifest.json and its pictures."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from neuroimagen.data_shards.common.arrays import Images, Integers
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.progress import track

MANIFEST_FILE = "manifest.json"
_COMPARED = ("seed", "samples", "steps", "scheduler", "guidance", "strength", "dtype", "model_digest")
"""Settings that rows of one table should share."""


@dataclass(frozen=True, kw_only=True)
class Reconstructions:
    """The pictures of one row (`full`, `semantic_only`, `oracle_class`, …); arrays have one entry a picture."""

    row: str
    folder: Path
    settings: dict[str, Any]
    """Everything the manifest says beside its items: seed, model digest, strength, guidance …"""
    segments: tuple[str, ...]
    """Keys of the segments that the pictures were made from."""
    stimulus_keys: tuple[str, ...]
    labels: Integers
    subjects: Integers
    samples: Integers
    """Number of the picture among those of its segment."""
    files: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.files)

    def images(self) -> tuple[Images, Integers]:
        """The distinct pictures, uint8 [U, 3, S, S], and which of them each entry shows, int64 [N].

        Entries share a file where nothing depends on the segment (the mean picture, for instance). Raises UserError
        naming a file that is missing, damaged or of another size.
        """
        distinct = list(dict.fromkeys(self.files))
        pictures: list[np.ndarray] = []
        for path in track(distinct, total=len(distinct), desc=f"reading {self.row}", unit="picture"):
            picture = read_picture(path)
            if pictures and picture.shape != pictures[0].shape:
                raise UserError(f"{path} is {picture.shape[1:]} px, others of its row are {pictures[0].shape[1:]}.")
            pictures.append(picture)
        position = {path: index for index, path in enumerate(distinct)}
        return np.stack(pictures), np.array([position[path] for path in self.files], dtype=np.int64)


def differing_settings(rows: Iterable[Reconstructions]) -> list[str]:
    """In words, the settings that are not the same in all rows that have them: a comparison of those rows measures the
    setting too. Rows that start from noise have no strength to compare, whose manifests say 1."""
    values: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        settings = {name: row.settings.get(name) for name in _COMPARED}
        settings |= {f"the {stage} stage": digest for stage, digest in row.settings.get("exports", {}).items()}
        for name, value in settings.items():
            if value is not None and not (name == "strength" and value == 1):
                values.setdefault(name, {}).setdefault(str(value), []).append(row.row)
    different = {name: by_value for name, by_value in values.items() if len(by_value) > 1}
    return [
        f"{name} (" + "; ".join(f"{value} in {', '.join(named)}" for value, named in by_value.items()) + ")"
        for name, by_value in different.items()
    ]


def read_picture(path: Path) -> np.ndarray:
    """A picture file as uint8 RGB [3, H, W]; UserError where it cannot be read."""
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            return np.ascontiguousarray(np.asarray(image.convert("RGB")).transpose(2, 0, 1))
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"cannot read the picture {path}: {error}. Run `neuroimagen reconstruct` again.") from error


def read_manifest(folder: Path) -> Reconstructions:
    """The manifest in `folder`. Raises UserError where it is missing, no manifest, empty, or names files outside."""
    path = folder / MANIFEST_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        items = content.pop("items")
        row = str(content.pop("row"))
        columns = {
            name: [item[name] for item in items]
            for name in ("segment", "stimulus", "label", "subject", "sample", "file")
        }
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}. Run `neuroimagen reconstruct` first.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not a manifest of reconstructions ({error!r}). Run `neuroimagen reconstruct` again."
        ) from error
    if not items:
        raise UserError(f"{path} lists no pictures. Run `neuroimagen reconstruct` again.")
    for name in columns["file"]:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(f"{path} names {name!r}, a file outside its folder.")
    return Reconstructions(
        row=row,
        folder=folder,
        settings=content,
        segments=tuple(columns["segment"]),
        stimulus_keys=tuple(columns["stimulus"]),
        labels=np.array(columns["label"], dtype=np.int64),
        subjects=np.array(columns["subject"], dtype=np.int64),
        samples=np.array(columns["sample"], dtype=np.int64),
        files=tuple(folder / name for name in columns["file"]),
    )


def read_reconstructions(run: Path) -> dict[str, Reconstructions]:
    """Row → its pictures, for every row of a run; UserError where there is none."""
    folder = run / "reconstructions"
    manifests = sorted(folder.glob(f"*/{MANIFEST_FILE}")) if folder.is_dir() else []
    if not manifests:
        raise UserError(f"{run} holds no reconstructions. Run `neuroimagen reconstruct --run {run}` first.")
    return {found.row: found for found in (read_manifest(path.parent) for path in manifests)}
