"""What all sources of rows have in common: keys, classes, splits, missing images."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from source_files import write_image

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.ingest import ingest
from neuroimagen.data_shards.sources.published.columns import Row, RowSource
from neuroimagen.data_shards.sources.splits import DROPPED, Division

EEG = np.random.default_rng(0).standard_normal((6, 2, 10)).astype(np.float32)
SPLITS = np.array(["train", "train", "val", "test", DROPPED, "train"])


class Rows(RowSource):
    NAME = "rows"
    HELP = DESCRIPTION = EXAMPLES = ""

    @classmethod
    def add_arguments(cls, parser: Any) -> None:
        raise NotImplementedError

    from_arguments = add_arguments  # type: ignore[assignment]

    def __init__(self, folder: Path, images: list[str], classes: list[str], **more: Any) -> None:
        self._rows = [
            Row(image=image, class_name=name, subject=1 + place % 2, session="a", onset_s=float(place), order=place)
            for place, (image, name) in enumerate(zip(images, classes, strict=True))
        ]
        self._n_channels, self._n_samples, self._sfreq, self._files = 2, 10, 50.0, {}
        self._finish(folder, Division(splits=SPLITS, rule="as given"), notes=["first"], **more)

    def _read(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        yield from EEG[rows]


IMAGES = ["x/1.png", "x/2.png", "y/3.png", "y/4.png", "y/5.png", "x/1.png"]
CLASSES = ["x", "x", "y", "y", "y", "x"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for image in IMAGES:
        write_image(tmp_path / "images" / image, 0)
    return tmp_path / "images"


def test_rows_become_segments_and_stimuli(folder: Path, tmp_path: Path) -> None:
    made = Rows(folder, IMAGES, CLASSES, wnids={"x": "n1"}, captions={"x/2.png": "two"})
    assert made.notes == ["first", "1 of 6 segments are in none of train, val and test: as given"]
    dataset = ingest(made, tmp_path / "out")
    assert dataset.stimuli.keys == ("1", "2", "3", "4")
    assert dataset.stimuli.detailed_captions == (None, "two", None, None)
    assert [(entry.name, entry.wnid) for entry in dataset.metadata.classes] == [("x", "n1"), ("y", "")]
    assert [record.order for record in made.segments()] == [0, 1, 2, 3, 5]
    assert [record.order for record in made.segments("train")] == [0, 1, 5]
    for record in made.segments():
        np.testing.assert_array_equal(record.eeg, EEG[record.order])
        assert (record.onset_s, record.session) == (float(record.order), "a")


def test_files_of_one_name_in_two_folders_are_called_by_their_paths(folder: Path) -> None:
    write_image(folder / "y" / "1.png", 0)
    images = [*IMAGES[:2], "y/1.png", *IMAGES[3:]]
    assert [record.key for record in Rows(folder, images, CLASSES).stimuli()] == ["x_1", "x_2", "y_1", "y_4"]


def test_images_that_are_missing_stop_or_are_counted(folder: Path) -> None:
    (folder / "x" / "1.png").unlink()
    with pytest.raises(UserError, match=r"1 of 5 images under .* can't be stored: x/1\.png \(missing\)"):
        Rows(folder, IMAGES, CLASSES)
    made = Rows(folder, IMAGES, CLASSES, on_missing="skip")
    assert [record.order for record in made.segments()] == [1, 2, 3]
    assert made.num_segments() == 3
    assert made.notes[1].endswith("2 of 6 segments are left out")


def test_an_image_has_one_class(folder: Path) -> None:
    with pytest.raises(UserError, match=r"image x/1\.png has two classes: x and y"):
        Rows(folder, IMAGES, [*CLASSES[:5], "y"])
