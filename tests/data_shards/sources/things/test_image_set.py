"""Which image has which number."""

from pathlib import Path

import numpy as np
import pytest
from things_files import TEST_FILES, TRAIN_CONCEPTS, TRAIN_FILES, write_images

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.things.image_set import ImageSet, concept_name, notes_on_names


def test_the_order_is_that_of_the_metadata(tmp_path: Path) -> None:
    write_images(tmp_path)
    images = ImageSet.read(tmp_path, "train")
    assert images.concepts == tuple(TRAIN_CONCEPTS)
    assert [path.name for path in images.paths] == TRAIN_FILES
    assert all(path.is_file() for path in images.paths)
    assert [path.name for path in ImageSet.read(tmp_path, "test").paths] == TEST_FILES


def test_without_metadata_it_is_that_of_sorted_names(tmp_path: Path) -> None:
    write_images(tmp_path, metadata=False, train_folder="train_images")
    (tmp_path / "train_images" / TRAIN_CONCEPTS[0] / ".DS_Store").write_bytes(b"")
    (tmp_path / "train_images" / TRAIN_CONCEPTS[0] / "notes.txt").write_bytes(b"")
    images = ImageSet.read(tmp_path, "train")
    assert [path.name for path in images.paths] == TRAIN_FILES
    assert "sorted names below train_images" in images.origin


def test_names_in_a_file_of_recordings_are_found_under_either_folder(tmp_path: Path) -> None:
    write_images(tmp_path)
    names = tuple(f"train_images/{c}/{f}" for c, f in zip(TRAIN_CONCEPTS, TRAIN_FILES, strict=True))
    for given in (names, tuple(name.replace("/", "\\") for name in names)):
        images = ImageSet.named(tmp_path, "train", given, where=Path("train.pt"))
        assert all(path.is_file() for path in images.paths)
    for bad in ("train_images/../secret.jpg", "a.jpg", "train_images//a.jpg"):
        with pytest.raises(UserError, match="is not of the form"):
            ImageSet.named(tmp_path, "train", (bad,), where=Path("train.pt"))


@pytest.mark.parametrize("name", ["../a.jpg", "/a.jpg", ".hidden", ""])
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    content = {"train_img_concepts": ["00001_a"], "train_img_files": [name]}
    np.save(tmp_path / "image_metadata.npy", content)
    with pytest.raises(UserError, match="is not allowed"):
        ImageSet.read(tmp_path, "train")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds neither image_metadata\.npy nor training_images or train_images"):
        ImageSet.read(tmp_path, "train")
    np.save(tmp_path / "image_metadata.npy", {"train_img_concepts": [["nested"]], "train_img_files": ["a"]})
    with pytest.raises(UserError, match="holds list where a name is expected"):
        ImageSet.read(tmp_path, "train")


def test_concepts_that_share_a_name_are_noted() -> None:
    assert concept_name("00002_ice_cream") == "ice cream"
    assert notes_on_names(["00001_a", "00002_b"]) == []
    assert notes_on_names(["00001_bat", "00002_b", "00003_bat"])[0].endswith("bat: 00001_bat, 00003_bat")
