"""Alljoined1's Parquet files, in their published layout."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_files import write_image, write_table

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.ingest import ingest
from neuroimagen.data_shards.sources.published.alljoined1 import Alljoined1Options, Alljoined1Source

NUM_IMAGES = 30


def rows(scale: float = 1e-6) -> list[dict[str, Any]]:
    """2 subjects × 3 sessions × 30 images: [64, 50] as lists, in V."""
    rng = np.random.default_rng(0)
    return [
        {
            "EEG": (rng.standard_normal((64, 50)) * 10 * scale).tolist(),
            "subject_id": subject,
            "session": session,
            "block": 1,
            "trial": image,
            "73k_id": 1000 + image,
            "coco_id": 500 + image,
            "curr_time": 2.0 + 0.35 * image,
        }
        for subject in (4, 5)
        for session in (1, 2, 3)
        for image in range(NUM_IMAGES)
    ]


def written(folder: Path) -> Path:
    every = rows()
    (folder / "data").mkdir()
    for name, part in (("test-00000-of-00001", every[:7]), ("train-00000-of-00001", every[7:])):
        pq.write_table(pa.Table.from_pylist(part), folder / "data" / f"{name}.parquet", row_group_size=5)
    table = [
        {"coco_id": 500 + image, "image": f"coco/{500 + image:012d}.jpg", "class": ("cat", "dog")[image % 2]}
        for image in range(NUM_IMAGES)
    ]
    write_table(folder / "classes.csv", table)
    for row in table:
        write_image(folder / "images" / row["image"], 0)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(tmp_path)


def source(folder: Path, **changes: Any) -> Alljoined1Source:
    given = {"eeg": folder / "data", "table": folder / "classes.csv", "images": folder / "images", **changes}
    return Alljoined1Source(Alljoined1Options(**given))


def test_the_files_become_a_data_set_in_microvolts(folder: Path) -> None:
    made = source(folder)
    dataset = ingest(made, folder / "out")
    every = rows()
    assert (len(dataset), dataset.metadata.n_channels, dataset.metadata.sfreq) == (len(every), 64, 512.0)
    for record, row in zip(made.segments(), every, strict=True):
        np.testing.assert_allclose(record.eeg, np.array(row["EEG"]) * 1e6, rtol=1e-6)
        assert (record.subject, record.session, record.order) == (row["subject_id"], str(row["session"]), row["trial"])
        assert record.onset_s == pytest.approx(row["curr_time"])
        assert record.stimulus == f"{row['coco_id']:012d}"
    picked = list(made.segments("val"))
    assert {record.split for record in picked} == {"val"}
    assert picked


def test_a_choice_is_counted_and_splits_are_those_of_all_sources(folder: Path) -> None:
    made = source(folder, subjects=(5,), split="by-session")
    assert {(r.subject, r.session, r.split) for r in made.segments()} == {
        (5, "1", "train"),
        (5, "2", "val"),
        (5, "3", "test"),
    }
    assert {(r.subject, r.split) for r in source(folder, split="leave-subject-out:4").segments("test")} == {(4, "test")}
    lines = (folder / "classes.csv").read_text().splitlines()
    (folder / "classes.csv").write_text("\n".join(lines[:-1]) + "\n")
    made = source(folder)
    assert any("6 of 180 segments left out: classes.csv has no row for 1 images (coco_id 529)" in n for n in made.notes)
    assert made.num_segments() == 174


def test_what_is_wrong_is_named(folder: Path) -> None:
    with pytest.raises(UserError, match="holds no Parquet files"):
        source(folder, eeg=folder / "images")
    with pytest.raises(UserError, match="no segment is left"):
        source(folder, subjects=(9,))
    pq.write_table(pa.Table.from_pylist(rows(1.0)), folder / "data" / "test-00000-of-00001.parquet")
    with pytest.raises(UserError, match="expected volts"):
        source(folder)
    (folder / "images2").mkdir()
    (folder / "images2" / "a.h5").write_bytes(b"")
    with pytest.raises(UserError, match=r"the \.h5 files are not read"):
        source(folder, eeg=folder / "images2")
    write_table(folder / "classes.csv", [{"coco_id": 500, "image": "../x.jpg", "class": "cat"}])
    with pytest.raises(UserError, match="lies outside the image folder"):
        source(folder)
