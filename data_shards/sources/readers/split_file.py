"""The published split files: folds as lists of positions, checked one by one."""

from pathlib import Path
from typing import Any

import numpy as np

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.format.schema import SPLITS
from neuroimagen.data_shards.sources.readers.pth import load_pth


def read_folds(path: Path, *, num_segments: int) -> list[dict[str, np.ndarray]]:
    """The folds of a published split file, each a dictionary train, val, test → int64 positions.

    Raises UserError naming fold, split and position when a position points past the data, comes twice, or the file has
    another form than {'splits': [{'train': [...], 'val': [...], 'test': [...]}, …]}.
    """
    raw = load_pth(path)
    folds = raw.get("splits") if isinstance(raw, dict) else None
    if not isinstance(folds, list) or not folds:
        raise UserError(
            f"{path} is not a split file: it must hold {{'splits': [{{'train': …, 'val': …, 'test': …}}, …]}}."
        )
    return [_check_fold(fold, f"{path}: fold {number}", num_segments) for number, fold in enumerate(folds)]


def _check_fold(fold: Any, where: str, num_segments: int) -> dict[str, np.ndarray]:
    if not isinstance(fold, dict) or set(fold) != set(SPLITS):
        found = sorted(map(str, fold)) if isinstance(fold, dict) else type(fold).__name__
        raise UserError(f"{where} holds {found}; expected train, val and test.")
    checked: dict[str, np.ndarray] = {}
    seen = np.zeros(num_segments, dtype=bool)
    for split in SPLITS:
        try:
            positions = np.asarray(fold[split])
        except (ValueError, TypeError):
            positions = np.asarray([0.5])
        if positions.size == 0:
            positions = positions.astype(np.int64)
        if positions.ndim != 1 or positions.dtype.kind not in "iu":
            raise UserError(f"{where}, {split}: expected a list of whole numbers.")
        wrong = positions[(positions < 0) | (positions >= num_segments)]
        if wrong.size:
            raise UserError(
                f"{where}, {split}: position {wrong[0]} is out of range, the EEG file has {num_segments} segments "
                f"({wrong.size} such positions). The split file belongs to another EEG file."
            )
        positions = positions.astype(np.int64)
        twice = positions[seen[positions]]
        if twice.size or len(np.unique(positions)) != len(positions):
            values, counts = np.unique(positions, return_counts=True)
            first = twice[0] if twice.size else values[counts > 1][0]
            raise UserError(f"{where}, {split}: position {first} comes twice in the fold, so its splits overlap.")
        seen[positions] = True
        checked[split] = positions
    return checked
