"""Alljoined-1.6M's preprocessed files, in their published layout, with the slips that they have."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_files import write_image

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.ingest import ingest
from neuroimagen.data_shards.sources.published import alljoined_1600k
from neuroimagen.data_shards.sources.published.alljoined_1600k import Alljoined1600kSource, AlljoinedOptions

CHANNELS = ["Fp1", "Afz", "Oz"]
FILES = {"stim_train": "preprocessed_eeg_training_flat.npy", "stim_test": "preprocessed_eeg_test_flat.npy"}


def experiment(subject: int) -> list[dict[str, Any]]:
    """4 sessions × 2 blocks: 6 training concepts × 1 image, 2 test concepts; every fifth row dropped."""
    rows = []
    for session in range(1, 5):
        for block in (1, 2):
            for place in range(8):
                test = block == 1 and place < 4
                concept = f"{place % 2 + 90:05d}_new_{place % 2}" if test else f"{place % 6 + 1:05d}_thing_{place % 6}"
                rows.append(
                    {
                        "subject": subject,
                        "session": session,
                        "block_id": block,
                        "sequence_id": place // 4,
                        "sequence_image_id": place % 4,
                        "partition": "stim_test" if test else "stim_train",
                        "image_path": f"stimuli/{concept}/{concept[6:]}_01.jpg",
                        "category_name": concept,
                        "dropped": len(rows) % 5 == 4,
                    }
                )
    return rows


def write_subject(folder: Path, subject: int, rows: list[dict[str, Any]], **changes: Any) -> Path:
    path = folder / "eeg" / f"sub-{subject:02d}"
    path.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), path / "experiment_metadata.parquet")
    rng = np.random.default_rng(subject)
    kept = [row for row in sorted(rows, key=_place) if not row["dropped"]]
    for partition, name in FILES.items():
        count = sum(row["partition"] == partition for row in kept)
        content = {
            "preprocessed_eeg_data": rng.standard_normal((count, 3, 250)).astype(np.float32),
            "ch_names": CHANNELS,
            "times": np.arange(300) / 250 - 0.2,
            **changes,
        }
        with (path / name).open("wb") as file:
            pickle.dump(content, file, protocol=4)
    for row in rows:
        write_image(folder / "images" / row["image_path"], 0)
    return path


def _place(row: dict[str, Any]) -> tuple[int, ...]:
    return tuple(row[name] for name in ("session", "block_id", "sequence_id", "sequence_image_id"))


def source(folder: Path, **changes: Any) -> Alljoined1600kSource:
    given = {"eeg": folder / "eeg", "images": folder / "images", "val_concepts": 2, **changes}
    return Alljoined1600kSource(AlljoinedOptions(**given))


def test_rows_that_are_not_dropped_are_the_trials(tmp_path: Path) -> None:
    for subject in (1, 2):
        write_subject(tmp_path, subject, experiment(subject))
    made = source(tmp_path)
    dataset = ingest(made, tmp_path / "out")
    kept = [row for row in experiment(2) if not row["dropped"]]
    assert (len(dataset), made.num_segments()) == (2 * len(kept), 2 * len(kept))
    assert dataset.metadata.channel_names == ("Fp1", "AFz", "Oz")
    assert "channel renamed: Afz → AFz" in made.notes
    assert {entry.name for entry in dataset.metadata.classes} >= {"thing 0", "new 1"}
    records = [record for record in made.segments() if record.subject == 2]
    arrays = {p: np.load(tmp_path / "eeg" / "sub-02" / n, allow_pickle=True) for p, n in FILES.items()}
    expected = [
        (row, arrays[partition]["preprocessed_eeg_data"][place])
        for partition in FILES
        for place, row in enumerate(row for row in kept if row["partition"] == partition)
    ]
    for record, (row, eeg) in zip(records, expected, strict=True):
        np.testing.assert_array_equal(record.eeg, eeg)
        assert (record.session, record.block) == (str(row["session"]), row["block_id"])
        assert record.stimulus == row["category_name"][6:] + "_01"
        assert (record.split == "test") == (row["partition"] == "stim_test")


def test_known_slips_are_put_right_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labelled = [{**row, "subject": 19 if row["session"] in (1, 3, 4) else 8} for row in experiment(8)]
    write_subject(tmp_path, 8, labelled)
    # In the authors' code row 73762 goes to 73760 before stim_order becomes experiment_metadata.
    monkeypatch.setattr(alljoined_1600k, "_ROW_TOO_LATE", {6: (14, 12)})
    rows = [{name: value for name, value in row.items() if name != "dropped"} for row in experiment(6)]
    path = write_subject(tmp_path, 6, [{**row, "dropped": False} for row in rows])
    (path / "experiment_metadata.parquet").unlink()
    pq.write_table(pa.Table.from_pylist(rows), path / "stim_order.parquet")
    write_subject(tmp_path, 1, experiment(1))
    made = source(tmp_path)
    assert any("48 rows of sessions 1, 3, 4 are labelled as subject 19's, a known slip" in note for note in made.notes)
    assert "sub-06: row 14 of stim_order.parquet is moved to 12, a known slip" in made.notes
    assert {record.subject for record in made.segments()} == {1, 6, 8}
    order = [row.image for row in made._rows if row.subject == 6 and "new" not in row.image]
    moved = [*rows[:12], rows[14], *rows[12:14], *rows[15:]]
    assert order == [row["image_path"] for row in moved if row["partition"] == "stim_train"]


def test_the_order_of_the_file_is_that_of_the_arrays(tmp_path: Path) -> None:
    rows = experiment(6)
    swapped = [*rows[:12], rows[14], *rows[12:14], *rows[15:]]
    write_subject(tmp_path, 6, [{**row, "dropped": False} for row in swapped])
    made = source(tmp_path)
    assert any("1 rows of experiment_metadata.parquet come before the row above them" in note for note in made.notes)
    order = [row.image for row in made._rows if "new" not in row.image]
    assert order == [row["image_path"] for row in swapped if row["partition"] == "stim_train"]


def test_categories_may_stand_in_a_table_of_their_own(tmp_path: Path) -> None:
    """Images are called by numbers in the published tables, and lie in one folder."""
    rows = experiment(1)
    number = {path: place for place, path in enumerate(dict.fromkeys(row["image_path"] for row in rows))}
    numbered = [
        {
            **{k: v for k, v in row.items() if k != "category_name"},
            "image_path": f"stimuli/images/{number[row['image_path']]}.jpg",
        }
        for row in rows
    ]
    write_subject(tmp_path, 1, numbered)
    (tmp_path / "images" / "stimuli" / "images").rename(tmp_path / "flat")
    with pytest.raises(UserError, match=r"do not say what the image shows\. Put experiment_metadata_categories"):
        source(tmp_path, images=tmp_path / "flat")
    table = [
        {"image_path": new["image_path"], "category_name": old["category_name"]}
        for new, old in zip(numbered, rows, strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "eeg" / "experiment_metadata_categories.parquet")
    made = source(tmp_path, images=tmp_path / "flat")
    assert {entry.name for entry in made.metadata().classes} >= {"thing 0", "new 1"}
    assert next(made.stimuli()).key == "3"  # the first training row is dropped


def test_other_disagreements_are_refused(tmp_path: Path) -> None:
    rows = experiment(1)
    for number, (odd, changes, message) in enumerate(
        (
            ([{**row, "subject": 19} for row in rows], {}, "labelled as subject 19's; the folder is subject 1's"),
            ([{**row, "dropped": False} for row in rows], {}, None),
            (
                [{**row, "partition": "oddball"} for row in rows],
                {},
                "holds no trials of stim_train and stim_test",
            ),
            (
                [{**row, "session": None} for row in rows],
                {},
                "column 'session' holds null",
            ),
            (rows, {"preprocessed_eeg_data": np.zeros((3, 3, 250))}, "has 3 trials"),
            (rows, {"ch_names": ["a"]}, "1 channel names for 3 channels"),
            (rows, {"times": np.arange(9)}, "9 times for 250 samples"),
            ([{**row, "image_path": "../x/y.jpg"} for row in rows], {}, "do not say what the image shows"),
        )
    ):
        folder = tmp_path / str(number)
        write_subject(folder, 1, odd, **changes)
        if message is None:
            assert source(folder).num_segments() == len(rows)
        else:
            with pytest.raises(UserError, match=message):
                source(folder)


def test_splits(tmp_path: Path) -> None:
    for subject in (1, 2):
        write_subject(tmp_path, subject, experiment(subject))
    names = {
        split: {record.stimulus.rsplit("_", 1)[0] for record in source(tmp_path).segments(split)}
        for split in ("train", "val", "test")
    }
    assert names["test"] == {"new_0", "new_1"}
    assert len(names["val"]) == 2
    assert not names["train"] & names["val"]
    left_out = {(r.subject, r.split) for r in source(tmp_path, split="leave-subject-out:2").segments()}
    assert left_out == {(1, "train"), (1, "val"), (2, "test")}
    sessions = {(r.session, r.split) for r in source(tmp_path, split="by-session").segments()}
    assert sessions == {("1", "train"), ("2", "train"), ("3", "val"), ("4", "test")}
    assert any("not zero-shot" in note for note in source(tmp_path, split="by-image").notes)
    with pytest.raises(UserError, match=r"subject 7 is not under .*there are \[1, 2\]"):
        source(tmp_path, subjects=(7,))
    with pytest.raises(UserError, match="it holds no sub-01"):
        source(tmp_path, eeg=tmp_path / "images")
