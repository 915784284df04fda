"""EEG-ImageNet's files, in their published layout."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from source_files import Bomb, write_image

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.ingest import ingest
from neuroimagen.data_shards.sources.published.eeg_imagenet import EegImageNetOptions, EegImageNetSource

WNIDS = ["n02106662", "n02124075", "n99999999"]
NAMES = {"n99999999": "thing"}


def written(folder: Path, **changes: Any) -> Path:
    """Two files: 3 subjects × 3 classes × 10 images of 62 × 501, the last class fine."""
    generator = torch.Generator().manual_seed(0)
    for number, subjects in ((1, (0, 1)), (2, (15,))):
        items = [
            {
                "eeg_data": torch.randn(62, 501, generator=generator),
                "granularity": "fine" if place == 2 else "coarse",
                "subject": subject,
                "label": wnid,
                "image": f"{wnid}_{image}.JPEG",
                **changes,
            }
            for subject in subjects
            for place, wnid in enumerate(WNIDS)
            for image in range(10)
        ]
        content = {"dataset": items, "labels": WNIDS, "images": sorted({item["image"] for item in items})}
        torch.save(content, folder / f"EEG-ImageNet_{number}.pth")
    for wnid in WNIDS:
        for image in range(10):
            write_image(folder / "images" / wnid / f"{wnid}_{image}.JPEG", image)
    (folder / "names.json").write_text(json.dumps(NAMES))
    return folder


def source(folder: Path, **changes: Any) -> EegImageNetSource:
    given = {
        "eeg": tuple(sorted(folder.glob("*.pth"))),
        "images": folder / "images",
        "class_names": folder / "names.json",
        **changes,
    }
    return EegImageNetSource(EegImageNetOptions(**given))


def test_the_files_become_a_data_set(tmp_path: Path) -> None:
    made = source(written(tmp_path))
    dataset = ingest(made, tmp_path / "out")
    assert (len(dataset), made.num_segments()) == (90, 90)
    metadata = dataset.metadata
    assert (metadata.n_channels, metadata.n_samples, metadata.sfreq) == (62, 400, 1000.0)
    assert metadata.subjects == (1, 2, 16)
    assert [(entry.name, entry.wnid) for entry in metadata.classes] == [
        ("Egyptian cat", "n02124075"),
        ("German shepherd", "n02106662"),
        ("thing", "n99999999"),
    ]
    assert metadata.split_counts == {"train": 72, "val": 9, "test": 9}
    raw = torch.load(tmp_path / "EEG-ImageNet_2.pth", weights_only=True)["dataset"][11]
    record = list(made.segments())[60 + 11]
    np.testing.assert_array_equal(record.eeg, raw["eeg_data"][:, 40:440].numpy())
    assert (record.stimulus, record.subject, record.block, record.order) == ("n02124075_1", 16, 1, 1)


def test_labels_and_images_may_be_places_in_the_lists(tmp_path: Path) -> None:
    written(tmp_path)
    path = tmp_path / "EEG-ImageNet_2.pth"
    content = torch.load(path, weights_only=True)
    for item in content["dataset"]:
        item["label"], item["image"] = WNIDS.index(item["label"]), content["images"].index(item["image"])
    path.unlink()
    torch.save(content, path)
    record = list(source(tmp_path).segments())[60 + 11]
    assert record.stimulus == "n02124075_1"


def test_a_choice_is_counted(tmp_path: Path) -> None:
    made = source(written(tmp_path), subjects=(1, 16), granularity="coarse", split="leave-subject-out:16")
    assert "30 of 90 segments left out by --granularity" in made.notes
    assert "20 of 60 segments left out by --subjects" in made.notes
    splits = {(record.subject, record.split) for record in made.segments()}
    assert splits == {(1, "train"), (1, "val"), (16, "test")}
    (tmp_path / "images" / WNIDS[0] / f"{WNIDS[0]}_3.JPEG").unlink()
    made = source(tmp_path)
    assert made.num_segments() == 87
    assert any("1 of 30 images" in note and "3 of 90 segments are left out" in note for note in made.notes)
    with pytest.raises(UserError, match="1 of 30 images"):
        source(tmp_path, on_missing="stop")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": "n02106662_1"}, "they are of different classes"),
        ({"granularity": "finest"}, "is neither coarse nor fine"),
        ({"subject": -1}, "subject -1 is not a number"),
        ({"eeg_data": torch.zeros(3)}, "must be a tensor"),
        ({"label": 7}, "is neither a name nor a place"),
        ({"image": "../../x"}, "is neither a name nor a place"),
        ({"eeg_data": torch.zeros(62, 300)}, "every segment ends before sample 440"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        source(written(tmp_path, **changes))


def test_options_and_names_that_do_not_fit(tmp_path: Path) -> None:
    written(tmp_path)
    for changes, message in (
        ({"subjects": (0,)}, r"subject 0 is not in the files; numbered from 1, they have \[1, 2, 16\]"),
        ({"class_names": None}, "1 classes have no known name, the first is n99999999"),
        ({"window": (5, 5)}, "is empty"),
        ({"granularity": "x"}, "is not one of all"),
        ({"split": "by-session"}, "the session of 90 of 90 segments is unknown"),
    ):
        with pytest.raises(UserError, match=message):
            source(tmp_path, **changes)
    witness = tmp_path / "witness"
    torch.save({"dataset": [Bomb(witness)]}, tmp_path / "EEG-ImageNet_1.pth")
    with pytest.raises(UserError, match=r"asks for posix\.system"):
        source(tmp_path)
    assert not witness.exists()
