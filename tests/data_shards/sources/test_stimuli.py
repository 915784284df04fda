"""The stimuli of a table of trials."""

from pathlib import Path

import pyarrow as pa
import pytest
from source_files import write_image

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.stimuli import Stimuli


def stimuli(folder: Path, image: list[str], class_name: list[str], caption: list[str] | None = None) -> Stimuli:
    return Stimuli(
        pa.chunked_array([image]),
        pa.chunked_array([class_name]),
        None if caption is None else pa.chunked_array([caption]),
        folder=folder,
        where="t.csv",
    )


def test_images_classes_and_captions(tmp_path: Path) -> None:
    for number, name in enumerate(("b.jpg", "sub/a.jpg")):
        write_image(tmp_path / name, number)
    made = stimuli(tmp_path, ["b.jpg", "sub/a.jpg", "b.jpg"], ["zebra", "ant", "zebra"], ["", "an ant", "a zebra"])
    assert [info.name for info in made.classes] == ["ant", "zebra"]
    assert made.label.tolist() == [1, 0, 1]
    assert made.number.tolist() == [0, 1, 0]
    records = list(made.records())
    assert [record.key for record in records] == made.keys == ["b", "sub_a"]
    assert [record.label for record in records] == [1, 0]
    assert [record.extension for record in records] == ["jpg", "jpg"]
    assert [record.detailed_caption for record in records] == ["a zebra", "an ant"]
    assert records[0].caption == "an image of zebra"
    assert records[1].image == (tmp_path / "sub/a.jpg").read_bytes()


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", 1)
    with pytest.raises(UserError, match=r"image a\.png has two classes in t\.csv, 'cat' and 'dog' \(1 rows\)"):
        stimuli(tmp_path, ["a.png", "a.png"], ["cat", "dog"])
    with pytest.raises(UserError, match=r"1 of 2 images under .* can't be stored: b\.png \(missing\)"):
        stimuli(tmp_path, ["a.png", "b.png"], ["cat", "dog"])
    with pytest.raises(UserError, match="lies outside the image folder"):
        stimuli(tmp_path, ["../a.png"], ["cat"])
