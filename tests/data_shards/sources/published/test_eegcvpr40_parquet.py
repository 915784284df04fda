"""EEGCVPR40 as Parquet files, in the layout in which it circulates."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from source_files import write_image

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.ingest import ingest
from neuroimagen.data_shards.sources.published.eegcvpr40_parquet import EegCvpr40ParquetOptions, EegCvpr40ParquetSource

WNIDS = ["n02389026", "n03888257"]


def encoded(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def rows(**changes: Any) -> list[dict[str, Any]]:
    """12 images of 2 classes, each seen by 2 subjects."""
    rng = np.random.default_rng(0)
    return [
        {
            "image": {"bytes": encoded(image), "path": f"{WNIDS[image % 2]}_{image}.JPEG"},
            "conditioning_image": rng.standard_normal((128, 440)).astype(np.float32).tolist(),
            "caption": f"a picture {image}",
            "label_folder": WNIDS[image % 2],
            "label": image % 2,
            "subject": subject,
            **changes,
        }
        for image in range(12)
        for subject in (1, 4)
    ]


def write(folder: Path, every: list[dict[str, Any]]) -> Path:
    (folder / "data").mkdir(exist_ok=True)
    for name, part in (("train", every[:16]), ("validation", every[16:20]), ("test", every[20:])):
        table = pa.Table.from_pylist(part)
        pq.write_table(table, folder / "data" / f"{name}-00000-of-00001.parquet", row_group_size=3)
    return folder


def source(folder: Path, **changes: Any) -> EegCvpr40ParquetSource:
    return EegCvpr40ParquetSource(EegCvpr40ParquetOptions(**{"eeg": folder / "data", **changes}))


def test_the_files_become_a_data_set(tmp_path: Path) -> None:
    every = rows()
    made = source(write(tmp_path, every))
    dataset = ingest(made, tmp_path / "out")
    metadata = dataset.metadata
    assert metadata.split_counts == {"train": 16, "val": 4, "test": 4}
    assert (metadata.n_channels, metadata.n_samples, metadata.sfreq) == (128, 440, 1000.0)
    assert [(entry.name, entry.wnid) for entry in metadata.classes] == [
        ("parachute", "n03888257"),
        ("sorrel", "n02389026"),
    ]
    expected = [*every[20:], *every[:16], *every[16:20]]  # files in the order of their names
    for record, row in zip(made.segments(), expected, strict=True):
        np.testing.assert_array_equal(record.eeg, np.array(row["conditioning_image"], dtype=np.float32))
        assert (record.subject, record.stimulus) == (row["subject"], row["image"]["path"][:-5])
    stimulus = dataset.stimuli.keys.index("n03888257_3")
    assert bytes(dataset.stimuli.encoded(stimulus)) == encoded(3)
    assert dataset.stimuli.detailed_captions[stimulus] == "a picture 3"


def test_a_choice_of_subjects_split_and_images(tmp_path: Path) -> None:
    write(tmp_path, rows())
    made = source(tmp_path, subjects=(4,))
    assert made.num_segments() == 12
    assert "12 of 24 segments left out by --subjects" in made.notes
    left_out = {(r.subject, r.split) for r in source(tmp_path, split="leave-subject-out:4").segments("test")}
    assert left_out == {(4, "test")}
    for image in range(12):
        write_image(tmp_path / "full" / WNIDS[image % 2] / f"{WNIDS[image % 2]}_{image}.JPEG", 100 + image)
    record = next(source(tmp_path, images=tmp_path / "full").stimuli())
    assert record.image == (tmp_path / "full" / record.key.split("_")[0] / f"{record.key}.JPEG").read_bytes()


def test_images_without_a_name_are_called_by_their_bytes(tmp_path: Path) -> None:
    every = [{**row, "image": row["image"]["bytes"]} for row in rows()]
    keys = {record.key for record in source(write(tmp_path, every)).stimuli()}
    assert len(keys) == 12
    assert all(key.startswith(tuple(WNIDS)) for key in keys)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": 0}, "labels and WordNet ids disagree"),
        ({"label_folder": "n00000000"}, "is not one of EEGCVPR40's 40 classes"),
        ({"image": {"bytes": None, "path": "a.jpg"}}, "'image' holds no bytes"),
        ({"conditioning_image": [[1.0, 2.0], [3.0]]}, "has channels of different lengths"),
        ({"conditioning_image": [1.0, 2.0]}, "is no list of channels"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        source(write(tmp_path, rows(**changes)))


def test_files_of_unknown_splits_are_refused(tmp_path: Path) -> None:
    write(tmp_path, rows())
    (tmp_path / "data" / "test-00000-of-00001.parquet").rename(tmp_path / "data" / "more.parquet")
    with pytest.raises(UserError, match="begins with none of train, validation"):
        source(tmp_path)
    with pytest.raises(UserError, match="holds no Parquet files"):
        source(tmp_path, eeg=tmp_path / "none")
