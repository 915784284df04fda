"""EEGCVPR40 as Parquet files with the images inside, in their published layout."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from stored_eeg import assert_as_stored

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.verify import verify
from neuroimagen.data_shards.sources.ingest import ingest
from neuroimagen.data_shards.sources.published.eegcvpr40_parquet import EegCvpr40ParquetOptions, EegCvpr40ParquetSource

WNIDS = ["n02106662", "n02124075"]
SPLITS = {"train": range(14), "validation": range(14, 16), "test": range(16, 20)}


def jpeg(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (9, 12, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def eeg(image: int, subject: int) -> np.ndarray:
    return np.random.default_rng([image, subject]).standard_normal((6, 11)).astype(np.float32)


def rows(images: range) -> list[dict[str, Any]]:
    """Two subjects see 20 images of two classes; the image stands in every row, as in the published files."""
    return [
        {
            "image": {"bytes": jpeg(image), "path": f"{WNIDS[image % 2]}_{image}.JPEG"},
            "conditioning_image": eeg(image, subject).tolist(),
            "caption": f"a photo of something, number {image}",
            "label_folder": WNIDS[image % 2],
            "label": 12 + image % 2,
            "subject": subject,
        }
        for subject in (1, 4)
        for image in images
    ]


def written(folder: Path, change: Any = None) -> Path:
    folder.mkdir()
    for split, images in SPLITS.items():
        content = rows(images)
        for row in content:
            if change is not None:
                change(row)
        pq.write_table(pa.Table.from_pylist(content), folder / f"{split}-00000-of-00001.parquet", row_group_size=5)
    return folder


def source(folder: Path, **changes: Any) -> EegCvpr40ParquetSource:
    return EegCvpr40ParquetSource(EegCvpr40ParquetOptions(**{"eeg": (folder,), "n_channels": 6, **changes}))


def test_the_files_become_a_data_set(tmp_path: Path) -> None:
    made = source(written(tmp_path / "data"))
    assert made.notes == []
    dataset = ingest(made, tmp_path / "out")
    assert list(verify(tmp_path / "out")) == []
    assert dataset.metadata.split_counts == {"train": 28, "val": 4, "test": 8}
    assert [(item.name, item.wnid) for item in dataset.metadata.classes] == [
        ("Egyptian cat", "n02124075"),
        ("German shepherd", "n02106662"),
    ]
    assert len(dataset.stimuli) == 20
    for row in range(40):
        key = dataset.stimuli.keys[dataset.index.stimulus[row]]
        image = int(key.split("_")[1])
        assert_as_stored(dataset.eeg(row), eeg(image, int(dataset.index.subject[row])))
        assert bytes(dataset.stimuli.encoded(int(dataset.index.stimulus[row]))) == jpeg(image)
        assert dataset.stimuli.detailed_captions[dataset.index.stimulus[row]] == f"a photo of something, number {image}"
    assert dataset.metadata.sfreq == 1000.0
    assert (dataset.index.block == -1).all()
    assert len(dataset.metadata.provenance["files"]) == 3


def test_segments_of_samples_by_channels_are_transposed_and_it_is_said(tmp_path: Path) -> None:
    def transpose(row: dict[str, Any]) -> None:
        row["conditioning_image"] = np.array(row["conditioning_image"]).T.tolist()

    made = source(written(tmp_path / "data", transpose))
    assert made.notes == ["segments are stored as [11 samples, 6 channels]; they are transposed"]
    first, *_ = made.segments("train")
    np.testing.assert_array_equal(first.eeg, eeg(0, 1))


def test_images_without_a_name_are_named_by_class_and_content(tmp_path: Path) -> None:
    made = source(written(tmp_path / "data", lambda row: row["image"].update(path=None)))
    keys = [stimulus.key for stimulus in made.stimuli()]
    assert len(set(keys)) == 20
    assert all(key[:10] in ("n02106662_", "n02124075_") for key in keys)


def test_one_caption_for_a_class_is_no_detailed_caption(tmp_path: Path) -> None:
    made = source(written(tmp_path / "data", lambda row: row.update(caption=f"image of {row['label']}")))
    assert {stimulus.detailed_caption for stimulus in made.stimuli()} == {None}


def test_other_splits_and_subjects(tmp_path: Path) -> None:
    folder = written(tmp_path / "data")
    made = source(folder, split="leave-subject-out:4")
    assert any("the split that the files' names say is not used" in note for note in made.notes)
    assert {record.subject for record in made.segments("test")} == {4}
    made = source(folder, subjects=(4,))
    assert {record.subject for record in made.segments()} == {4}
    assert made.num_segments() == 20
    with pytest.raises(UserError, match=r"subject 3 is not in the files; they have \[1, 4\]"):
        source(folder, subjects=(3,))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row.update(label=row["subject"]), "label 1 stands beside label_folder"),
        (
            lambda row: row.update(label_folder=WNIDS[row["label"] == 12], label=12),
            "label 12 stands beside label_folder n02106662 and n02124075",
        ),
        (
            lambda row: row.update(label_folder=WNIDS[row["label"] == 12]),
            r"different classes: n02106662_16\.JPEG in class n02124075, .* \(20 images\)",
        ),
        (lambda row: row["image"].update(bytes=None), r"test-00000-of-00001\.parquet, row 0: 'image' holds no bytes"),
        (lambda row: row["image"].update(path="a.JPEG"), r"two images are called a\.JPEG"),
        (lambda row: row["image"].update(bytes=b"no image"), "20 of 20 images .* can't be stored"),
        (lambda row: row.update(label_folder="dog"), "row 0: label_folder 'dog' is no WordNet id"),
        (lambda row: row.pop("caption"), "has no column 'caption'; it has image, conditioning_image"),
        (
            lambda row: row.update(conditioning_image=[[1.0, 2.0]] * 3),
            "the segment is 3 × 2, and no axis has 6 channels",
        ),
        (lambda row: row.update(conditioning_image=[[1.0], [1.0, 2.0]]), "'conditioning_image' is no table of numbers"),
    ],
)
def test_files_that_contradict_themselves_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    folder = written(tmp_path / "data", change)
    with pytest.raises(UserError, match=message):
        source(folder)


def test_a_segment_of_another_shape_is_named(tmp_path: Path) -> None:
    def cut(row: dict[str, Any]) -> None:
        if row["image"]["path"].endswith("_13.JPEG"):
            row["conditioning_image"] = [line[:-1] for line in row["conditioning_image"]]

    with pytest.raises(UserError, match=r"train-.*, row 13: the segment is \(6, 10\), the first is \(6, 11\)"):
        list(source(written(tmp_path / "data", cut)).segments())


def test_files_that_say_no_split_or_are_none_are_named(tmp_path: Path) -> None:
    folder = written(tmp_path / "data")
    (folder / "test-00000-of-00001.parquet").rename(folder / "part-3.parquet")
    with pytest.raises(UserError, match=r"part-3\.parquet: the name must begin with train, validation or test"):
        source(folder)
    (folder / "part-3.parquet").unlink()
    (folder / "test.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match=r"cannot read .*test\.parquet"):
        source(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="there is no Parquet file"):
        source(tmp_path / "empty")
