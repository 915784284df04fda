"""How segments are divided into train, val and test: published folds, by image, one subject left out.

Every rule assigns a split to each recorded segment *before* any subject or length filter: the published split files
hold positions in the unfiltered list, and filtering first silently shifts them.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neuroimagen.data_shards.common.errors import UsageError, UserError
from neuroimagen.data_shards.format.schema import SPLITS
from neuroimagen.data_shards.sources.readers.pth import load_pth

DROPPED = ""
"""Stands for the split of a segment that is in none of train, val and test."""
RULES = "fold:N, single, by-image or leave-subject-out:S"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitRule:
    """A parsed --split: which rule, and its number."""

    kind: str
    """fold, by-image or leave-subject-out."""
    number: int = 0
    """Fold, or subject left out."""
    single: bool = False
    """The split file must have one fold only."""

    @classmethod
    def parse(cls, text: str) -> "SplitRule":
        """fold:N, single (the only fold of a one-fold file), by-image, leave-subject-out:S."""
        if text == "single":
            return cls(kind="fold", single=True)
        if text == "by-image":
            return cls(kind="by-image")
        if match := re.fullmatch(r"(fold|leave-subject-out):(\d+)", text):
            return cls(kind=match[1], number=int(match[2]))
        raise UsageError(f"--split {text!r} is not one of {RULES}.")


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


def split_of_segments(
    rule: SplitRule,
    *,
    folds: Sequence[Mapping[str, np.ndarray]] | None,
    image: np.ndarray,
    label: np.ndarray,
    subject: np.ndarray,
    seed: int,
) -> tuple[np.ndarray, str]:
    """Assign a split to every segment. Returns a text array (train, val, test or DROPPED) and the rule in words.

    image, label, subject: int64 [num_segments]. `folds` is needed for fold rules only.
    """
    if rule.kind == "fold":
        if folds is None:
            raise UsageError("--split fold:N and single need the split file: give --splits FILE.")
        if rule.single and len(folds) != 1:
            raise UserError(f"--split single needs a split file of one fold; this one has {len(folds)}. Use fold:N.")
        if rule.number >= len(folds):
            raise UserError(f"--split fold:{rule.number}: the file has folds 0..{len(folds) - 1}.")
        splits = np.full(len(image), DROPPED, dtype="U5")
        for split, positions in folds[rule.number].items():
            splits[positions] = split
        return splits, f"fold {rule.number} of {len(folds)} of the split file"
    splits = _splits_of_images(image, label, seed)[image]
    if rule.kind == "by-image":
        return splits, f"80/10/10 % by image within each class, seed {seed}"
    if rule.number not in subject:
        raise UserError(
            f"--split leave-subject-out:{rule.number}: the data has subjects {np.unique(subject).tolist()}."
        )
    # Validation images are held out of training; the images that a by-image split would test on may be trained on,
    # because the test is on a subject that training never sees.
    splits = np.where(splits == "test", "train", splits)
    splits[subject == rule.number] = "test"
    return splits, f"subject {rule.number} is the test split; 10 % of the others' images are val, seed {seed}"


def _splits_of_images(image: np.ndarray, label: np.ndarray, seed: int) -> np.ndarray:
    """Split of each image number: images are shuffled within their class, then every tenth goes to val and to test."""
    numbers, first = np.unique(image, return_index=True)
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(numbers))
    by_class = shuffled[np.argsort(label[first][shuffled], kind="stable")]  # class after class, random within each
    # One place in ten goes to val and one to test: the totals are exact, each class is within one image of its share.
    place = np.arange(len(numbers))
    split_of_place = np.full(len(numbers), "train", dtype="U5")
    split_of_place[place % 10 == 7] = "val"
    split_of_place[place % 10 == 2] = "test"
    splits = np.full(int(image.max()) + 1, DROPPED, dtype="U5")
    splits[numbers[by_class]] = split_of_place
    return splits
