"""A simulated study on disk: EEGCVPR40's files, shards, equal bytes, and what goes wrong."""

import hashlib
import json
import resource
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from simulated_study import simulated_study

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.simulator import write_study
from neuroimagen.data_shards.simulator.ceiling import measure_ceiling
from neuroimagen.data_shards.simulator.drawn_stimuli import CLASSES
from neuroimagen.data_shards.simulator.write_study import write_eegcvpr40, write_shards


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module", autouse=True)
def _quick_ceiling() -> Iterator[None]:
    """The value itself is tested in test_ceiling.py; a twentieth of the draws is enough here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write_study, "measure_ceiling", partial(measure_ceiling, num_draws=5000))
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small study in EEGCVPR40's layout. Read only."""
    out = tmp_path_factory.mktemp("study") / "raw"
    write_eegcvpr40(simulated_study(), out)
    return out


def test_files_have_the_layout_of_eegcvpr40(files: Path) -> None:
    content = torch.load(files / "eeg_5_95_std.pth", weights_only=True)
    assert set(content) == {"dataset", "labels", "images"}
    assert content["labels"] == [item.wnid for item in CLASSES[:3]]
    assert len(content["dataset"]) == 42
    assert len(content["images"]) == len(set(content["images"])) == 21
    shown = set()
    for item in content["dataset"]:
        assert set(item) == {"eeg", "image", "label", "subject"}
        assert item["eeg"].dtype == torch.float32
        assert item["eeg"].shape[0] == 128
        assert item["eeg"].shape[1] >= 491
        assert content["images"][item["image"]].startswith(content["labels"][item["label"]] + "_")
        shown.add((item["subject"], item["image"]))
    assert shown == {(subject, image) for subject in (1, 2) for image in range(21)}
    for name in content["images"]:
        with Image.open(files / "images" / name.split("_")[0] / f"{name}.JPEG") as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (32, 32))
            assert {layer[1:3] for layer in image.layer} == {(1, 1)}  # no channel is subsampled


def test_splits_are_by_image_and_every_image_is_tested_once(files: Path) -> None:
    items = torch.load(files / "eeg_5_95_std.pth", weights_only=True)["dataset"]
    folds = torch.load(files / "block_splits_by_image_all.pth", weights_only=True)["splits"]
    assert len(folds) == 6
    tested: list[int] = []
    for fold in folds:
        assert set(fold) == {"train", "val", "test"}
        assert sorted(fold["train"] + fold["val"] + fold["test"]) == list(range(42))
        images = {split: {items[row]["image"] for row in rows} for split, rows in fold.items()}
        assert not (images["train"] & images["val"] | images["train"] & images["test"] | images["val"] & images["test"])
        assert all({image % 3 for image in images[split]} == {0, 1, 2} for split in images)
        tested += images["test"]
    assert sorted(tested) == list(range(21))
    (single,) = torch.load(files / "block_splits_by_image_single.pth", weights_only=True)["splits"]
    rows = single["train"] + single["val"] + single["test"]
    assert sorted(rows) == [row for row in range(42) if items[row]["subject"] == 1]


def test_which_files_are_beside_those_of_eegcvpr40(files: Path) -> None:
    names = set(torch.load(files / "eeg_5_95_std.pth", weights_only=True)["images"])
    captions = json.loads((files / "captions.json").read_text())
    scenes = json.loads((files / "scenes.json").read_text())
    assert set(captions) == set(scenes) == names
    name = f"{CLASSES[1].wnid}_3"
    assert CLASSES[1].name in captions[name]
    assert scenes[name]["class_index"] == 1
    assert len(scenes[name]["layout"]) == 9
    presentation = json.loads((files / "presentation.json").read_text())
    assert len(presentation["block"]) == len(presentation["order"]) == 42
    study = json.loads((files / "study.json").read_text())
    assert study["config"]["model"]["num_classes"] == 3
    assert study["ceiling"]["chance"] < study["ceiling"]["achievable"] <= study["ceiling"]["accuracy"] + 0.01
    assert len(study["channel_names"]) == 128
    assert "numpy" in study["versions"]


def test_one_seed_one_study(files: Path, tmp_path: Path) -> None:
    write_eegcvpr40(simulated_study(), tmp_path / "again", workers=1)
    assert digests(tmp_path / "again") == digests(files)


def test_shards_hold_what_ingest_would_make_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neuroimagen.data_shards.simulator.forward_model.LONG_SHARE", 0.2)
    study = simulated_study()
    ceiling, kept = write_shards(study, tmp_path / "data")
    dataset = Dataset.open(tmp_path / "data")
    segments = list(study.segments())
    rows = [n for n, eeg in enumerate(segments) if eeg.shape[1] <= 600]
    assert kept == len(rows) < 42
    index = dataset.index
    np.testing.assert_array_equal(index.label, [n // 2 % 3 for n in rows])
    np.testing.assert_array_equal(index.subject, [n % 2 + 1 for n in rows])
    np.testing.assert_array_equal(
        list(zip(index.block, index.order, strict=True)), [study.block_and_order(n) for n in rows]
    )
    fold = study.folds()[0]
    for split in ("train", "val", "test"):
        np.testing.assert_array_equal([rows[row] for row in dataset.rows(split)], [n for n in fold[split] if n in rows])
    assert dataset.stimuli.keys[4] == study.name(4)
    assert dataset.metadata.provenance["study"]["ceiling"]["accuracy"] == ceiling.accuracy
    assert (dataset.metadata.n_channels, dataset.metadata.n_samples) == (128, 440)


def test_shards_are_the_same_bytes_again(tmp_path: Path) -> None:
    for name, workers in (("one", 1), ("two", 2)):
        write_shards(simulated_study(images_per_class=3), tmp_path / name, workers=workers)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


@pytest.mark.parametrize("write", [write_eegcvpr40, write_shards])
def test_a_folder_in_use_is_refused_before_any_work(write: object, tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        write(simulated_study(), tmp_path)  # type: ignore[operator]
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


@pytest.mark.parametrize("write", [write_eegcvpr40, write_shards])
def test_a_full_disk_is_one_clear_error(write: object, small_disk: Callable[[int], Path]) -> None:
    place = small_disk(2 << 20)
    with pytest.raises(UserError, match="No space left"):
        write(simulated_study(), place / "out")  # type: ignore[operator]
    assert list(place.iterdir()) == []


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """As on a full disk, where none can be mounted: files may not grow beyond 1 MB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(UserError, match=r"cannot write .*out: File too large"):
            write_eegcvpr40(simulated_study(images_per_class=3), tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_study_larger_than_memory_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"GB of memory.*--format shards"):
        write_eegcvpr40(simulated_study(images_per_class=10_000_000), tmp_path / "out")
