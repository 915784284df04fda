"""Files that sources read: images and tables, written by tests."""

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np


def write_image(path: Path, seed: int) -> None:
    """An 8 × 8 image of noise, in the format of the path's ending; folders above it are made."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A CSV, or by its name a TSV, with the columns of the first row."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
    return path


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class Bomb:
    """An object whose pickle creates the file `witness` when it is loaded."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple:
        return os.system, (f"touch '{self.witness}'",)
