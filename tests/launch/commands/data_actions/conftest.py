"""A small study in files, and the command that ingests it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from source_files import write_image

from neuroimagen.launch.cli import main

Ingest = Callable[..., int]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Two classes × 5 images in EEGCVPR40's layout, one subject."""
    torch.manual_seed(0)
    folder = tmp_path / "raw study"
    names = [f"{wnid}_{number}" for wnid in ("n02389026", "n03888257") for number in range(5)]
    for number, name in enumerate(names):
        write_image(folder / "images" / name.split("_")[0] / f"{name}.JPEG", number)
    dataset = [{"eeg": torch.randn(4, 500), "image": image, "label": image // 5, "subject": 1} for image in range(10)]
    torch.save({"dataset": dataset, "labels": ["n02389026", "n03888257"], "images": names}, folder / "eeg.pth")
    return folder


@pytest.fixture
def ingest(raw: Path) -> Ingest:
    """ingest(out, *more words) → exit code of `data ingest eegcvpr40` of that study, split by image."""

    def run(out: Path, *more: str) -> int:
        files = ["--eeg", str(raw / "eeg.pth"), "--images", str(raw / "images"), "--out", str(out)]
        return main(["data", "ingest", "eegcvpr40", *files, "--n-channels", "4", "--split", "by-image", *more])

    return run


@pytest.fixture
def data(ingest: Ingest, tmp_path: Path) -> Path:
    """That study as a data set."""
    assert ingest(tmp_path / "data set") == 0
    return tmp_path / "data set"
