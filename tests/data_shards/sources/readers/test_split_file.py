"""Published split files: what is wrong with a fold is named; test_splits.py applies good ones."""

from pathlib import Path

import numpy as np
import pytest
import torch

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.readers.split_file import read_folds


def _write(path: Path, **fold: object) -> Path:
    torch.save({"splits": [{"train": [0, 1], "val": [2], "test": [3], **fold}]}, path)
    return path


def test_folds_are_int64_positions(tmp_path: Path) -> None:
    (fold,) = read_folds(_write(tmp_path / "s.pth", test=[]), num_segments=6)
    assert {split: positions.dtype for split, positions in fold.items()} == dict.fromkeys(fold, np.dtype(np.int64))
    assert len(fold["test"]) == 0


@pytest.mark.parametrize(
    ("fold", "message"),
    [
        ({"test": [6]}, r"fold 0, test: position 6 is out of range, the EEG file has 6 segments \(1 such"),
        ({"val": [-1]}, "position -1 is out of range"),
        ({"test": [0]}, "test: position 0 comes twice"),
        ({"train": [4, 4]}, "train: position 4 comes twice"),
        ({"test": [0.5]}, "test: expected a list of whole numbers"),
        ({"test": "abc"}, "expected a list of whole numbers"),
        ({"test": [[1], [2]]}, "expected a list of whole numbers"),
        ({"test": [[1], [2, 3]]}, "expected a list of whole numbers"),
        ({"extra": []}, "holds .*'extra'.*; expected train, val and test"),
    ],
)
def test_wrong_folds_are_named(tmp_path: Path, fold: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_folds(_write(tmp_path / "s.pth", **fold), num_segments=6)


def test_files_that_are_no_split_files_are_refused(tmp_path: Path) -> None:
    for content in ({"folds": []}, {"splits": []}, [1, 2], {"splits": {"train": []}}):
        torch.save(content, tmp_path / "s.pth")
        with pytest.raises(UserError, match="is not a split file"):
            read_folds(tmp_path / "s.pth", num_segments=6)
    torch.save({"splits": [3]}, tmp_path / "s.pth")
    with pytest.raises(UserError, match="holds int; expected train"):
        read_folds(tmp_path / "s.pth", num_segments=6)
