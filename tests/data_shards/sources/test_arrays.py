"""Arrays with a table of labels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from source_files import read_table, write_image, write_table
from stored_eeg import assert_as_stored

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.verify import verify
from neuroimagen.data_shards.new_eeg.description import InputDescription
from neuroimagen.data_shards.sources.arrays import ArraySource, LabelTable, load_segments
from neuroimagen.data_shards.sources.ingest import ingest


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    """40 segments of 20 images, two classes."""
    np.save(tmp_path / "eeg.npy", np.random.default_rng(0).standard_normal((40, 3, 16)))
    for number in range(20):
        write_image(tmp_path / "images" / f"set {number % 2}" / f"{number}.png", number)
    rows = [
        {
            "image": f"set {n % 2}/{n % 20}.png",
            "class": ("cat", "dog")[n % 2],
            "subject": 1 + n // 20,
            "caption": f"number {n % 20}",
            "order": n,
        }
        for n in range(40)
    ]
    write_table(tmp_path / "table.csv", rows)
    return tmp_path


def _array_source(folder: Path, **changes: Any) -> ArraySource:
    options = {"name": "mine", "images": folder / "images", "sfreq": 250.0, "files": (folder / "eeg.npy",), **changes}
    return ArraySource(load_segments(folder / "eeg.npy"), LabelTable.read(folder / "table.csv"), **options)


def test_arrays_become_a_data_set(arrays: Path) -> None:
    dataset = ingest(_array_source(arrays), arrays / "out")
    assert list(verify(arrays / "out")) == []
    eeg = np.load(arrays / "eeg.npy")
    for row in range(40):
        assert_as_stored(dataset.eeg(row), eeg[row])
    assert [info.name for info in dataset.metadata.classes] == ["cat", "dog"]
    assert dataset.stimuli.keys[1] == "set_1_1"
    assert dataset.stimuli.detailed_captions[3] == "number 3"
    assert dataset.metadata.split_counts == {"train": 32, "val": 4, "test": 4}
    assert dataset.index.subject.tolist() == [1] * 20 + [2] * 20
    assert dataset.index.order.tolist() == list(range(40))


def test_an_npz_reads_like_an_npy(arrays: Path) -> None:
    eeg = np.load(arrays / "eeg.npy")
    np.savez(arrays / "eeg.npz", eeg=eeg)
    np.testing.assert_array_equal(load_segments(arrays / "eeg.npz"), eeg)
    np.savez(arrays / "wrong.npz", data=eeg)
    with pytest.raises(UserError, match="must be called 'eeg'"):
        load_segments(arrays / "wrong.npz")
    np.save(arrays / "flat.npy", eeg[0])
    with pytest.raises(UserError, match=r"holds float64 \(3, 16\); expected numbers \[segments"):
        load_segments(arrays / "flat.npy")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda rows: rows.pop(), "40 segments and 39 rows"),
        (lambda rows: rows[3].update({"class": ""}), "line 5: class is empty"),
        (lambda rows: rows[3].update(subject=""), "subject '' is empty"),
        (lambda rows: rows[3].update(subject="-1"), "subject '-1' is negative"),
        (lambda rows: rows[3].update(subject="01"), "subjects '1' and '01' would both get number 1"),
        (lambda rows: rows[3].update(order="one"), "line 5: order 'one' is not a whole number"),
        (lambda rows: [row.update(onset_s=2) for row in rows], "segment 0 has an onset but no recording"),
        (
            lambda rows: [row.update(recording="r") for row in rows],
            "'r' has segments of subject 1, session '', and of subject 2",
        ),
        (lambda rows: [row.update(session="s" * 40) for row in rows], "session 's+' takes 40 bytes; at most 32 fit"),
        (lambda rows: rows[3].update(image="none.png"), r"1 of 21 images .* can't be stored: none\.png \(missing\)"),
        (lambda rows: rows[3].update(image="../table.csv"), "outside the image folder"),
        (lambda rows: rows[3].update({"class": "cat"}), r"set 1/3\.png has two classes"),
        (lambda rows: [row.update(split="training") for row in rows], "line 2: split 'training'"),
        (lambda rows: [row.pop("image") for row in rows], "no column 'image'.*its first line is 'class', 'subject'"),
        (
            lambda rows: [row.update(Split="train") for row in rows],
            "column 'Split' is not known; did you mean 'split'",
        ),
        (lambda rows: [row.update(blok=1) for row in rows], "column 'blok' .* did you mean 'block'"),
    ],
)
def test_wrong_tables_are_named(arrays: Path, edit: Any, message: str) -> None:
    rows = read_table(arrays / "table.csv")
    edit(rows)
    write_table(arrays / "table.csv", rows)
    with pytest.raises(UserError, match=message):
        _array_source(arrays)


def test_columns_that_are_not_used_are_noted(arrays: Path) -> None:
    rows = read_table(arrays / "table.csv")
    write_table(arrays / "table.csv", [{**row, "session": 1, "reaction_ms": 300, "orders": ""} for row in rows])
    source = _array_source(arrays)
    assert source.num_segments() == 40
    assert source.notes == [f"{arrays / 'table.csv'}: not used: columns 'reaction_ms', 'orders'"]


def _timed_rows(arrays: Path) -> list[dict[str, Any]]:
    return [
        {**row, "subject": "AB"[n // 20], "session": str(n % 4), "recording": f"{n // 20}-{n % 4}", "onset_s": n / 8}
        for n, row in enumerate(read_table(arrays / "table.csv"))
    ]


def test_time_session_and_subject_labels_reach_the_index(arrays: Path) -> None:
    write_table(arrays / "table.csv", _timed_rows(arrays))
    source = _array_source(arrays)
    dataset = ingest(source, arrays / "out")
    assert list(verify(arrays / "out")) == []
    assert dataset.index.onset_s.tolist() == [n / 8 for n in range(40)]
    assert dataset.index.recording.tolist() == [f"{n // 20}-{n % 4}" for n in range(40)]
    assert dataset.index.session.tolist() == [str(n % 4) for n in range(40)]
    assert dataset.index.subject.tolist() == [1] * 20 + [2] * 20
    assert dataset.metadata.provenance["subject_labels"] == {"A": 1, "B": 2}
    assert any("A is 1, B is 2" in note for note in source.notes)


def test_a_rule_for_the_split_is_applied_and_the_column_that_it_replaces_is_noted(arrays: Path) -> None:
    write_table(arrays / "table.csv", [{**row, "split": "train"} for row in _timed_rows(arrays)])
    assert set(ingest(_array_source(arrays), arrays / "by-column").index.split) == {"train"}
    source = _array_source(arrays, split="by-session")
    assert "the table's column 'split' is not used, because --split is by-session" in source.notes
    dataset = ingest(source, arrays / "out")
    assert dataset.index.split.tolist() == [("train", "train", "val", "test")[n % 4] for n in range(40)]
    dataset = ingest(_array_source(arrays, split="leave-subject-out:2"), arrays / "loso")
    assert (dataset.index.split[20:] == "test").all()
    assert "test" not in dataset.index.split[:20]
    with pytest.raises(UserError, match="fold:0 needs a split file, which this source does not have"):
        _array_source(arrays, split="fold:0")


def test_tables_in_another_form_are_named(arrays: Path) -> None:
    table, text = arrays / "table.csv", (arrays / "table.csv").read_text()
    table.write_text(text.replace(",", ";"))
    with pytest.raises(UserError, match=r"no column 'image'.*its first line is 'image;class;"):
        LabelTable.read(table)
    table.write_bytes(text.replace("cat", "Kätzchen").encode("latin-1"))
    with pytest.raises(UserError, match=r"table\.csv is not UTF-8 \(byte \d+\); save it in that encoding"):
        LabelTable.read(table)
    table.write_text("")
    with pytest.raises(UserError, match="it is empty"):
        LabelTable.read(table)
    table.unlink()
    with pytest.raises(UserError, match=r"cannot read .*table\.csv: No such file or directory\.$"):
        LabelTable.read(table)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channel_names": ("Cz", "Pz", "Cz")}, "channel name 'Cz' is given twice"),
        ({"band_hz": (40.0, 1.0)}, "--band 40:1 must run from low to high"),
        ({"band_hz": (1.0, 400.0)}, r"up to half of the sampling rate \(125 Hz\)"),
    ],
)
def test_what_is_said_of_the_arrays_must_be_possible(arrays: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _array_source(arrays, **changes)


def test_channels_that_never_vary_are_said(arrays: Path) -> None:
    assert _array_source(arrays).notes == []
    eeg = np.load(arrays / "eeg.npy")
    eeg[3:5, 1] = 7
    np.save(arrays / "eeg.npy", eeg)
    said = "2 of 40 segments have channels that never vary, the first is segment 3 (channels Pz): kept"
    assert _array_source(arrays, channel_names=("Cz", "Pz", "Oz")).notes == [said]
    assert _array_source(arrays).notes == [said.replace("Pz", "1")]


def test_an_array_with_its_axes_exchanged_is_said(arrays: Path) -> None:
    eeg = np.load(arrays / "eeg.npy")
    np.save(arrays / "eeg.npy", eeg.transpose(0, 2, 1))
    (note,) = _array_source(arrays).notes
    assert note.startswith("the array is read as 16 channels of 3 samples; if it is [segments, samples, channels]")
    with pytest.raises(UserError, match=r"3 channel names, and the array \(40, 16, 3\) .*: transpose it"):
        _array_source(arrays, channel_names=("Cz", "Pz", "Oz"))
    assert _array_source(arrays, channel_names=tuple(f"E{n}" for n in range(16))).notes == []
    with pytest.raises(UserError, match=r"4 channel names, and the array .* 3 samples\.$"):
        _array_source(arrays, channel_names=("a", "b", "c", "d"))


def test_jpeg_and_png_images_and_captions_for_some_are_read_by_hugging_face_datasets(arrays: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    rows = read_table(arrays / "table.csv")
    for row in rows:
        name = Path(row["image"])
        if int(name.stem) % 3 == 0:
            write_image(arrays / "images" / name.with_suffix(".jpg"), int(name.stem))
            row["image"] = str(name.with_suffix(".jpg"))
        row["caption"] = row["caption"] if int(name.stem) > 12 else ""
    write_table(arrays / "table.csv", rows)
    dataset = ingest(_array_source(arrays), arrays / "out", shard_bytes=1 << 16)
    assert list(verify(arrays / "out")) == []
    for folder, count in (("segments", 40), ("stimuli", 20)):
        shards = sorted(str(path) for path in (arrays / "out" / folder).glob("*.tar"))
        loaded = datasets.load_dataset(
            "webdataset",
            data_files=shards,
            split="train",
            cache_dir=str(arrays / "cache"),
            streaming=folder == "stimuli",
        )
        assert sum(1 for _ in loaded) == count
    assert set(dataset.stimuli.extensions) == {"png"}


def test_a_class_and_an_image_name_that_contradict_each_other_are_refused(arrays: Path) -> None:
    rows = read_table(arrays / "table.csv")
    for name in ("n02106662_1.png", "n02124075_2.png"):
        write_image(arrays / "images" / name, 99)
    rows[0].update({"image": "n02106662_1.png", "class": "German shepherd"})
    rows[2].update({"image": "n02124075_2.png", "class": "n02124075"})
    write_table(arrays / "table.csv", rows)
    assert _array_source(arrays).num_segments() == 40
    for name in ("Egyptian cat", "n02124075"):
        rows[0]["class"] = name
        write_table(arrays / "table.csv", rows)
        with pytest.raises(UserError, match=r"different classes: n02106662_1\.png in class n02124075 \(1 images\)"):
            _array_source(arrays)


@pytest.mark.parametrize(("unit", "factor"), [("V", 1e6), ("mV", 1e3), ("uV", 1.0)])
def test_values_of_a_known_unit_are_stored_in_microvolt(arrays: Path, unit: str, factor: float) -> None:
    microvolts = 20 * np.load(arrays / "eeg.npy")
    np.save(arrays / "eeg.npy", (microvolts / factor).astype(np.float32))
    dataset = ingest(_array_source(arrays, unit=unit), arrays / "out")
    for row in (0, 17, 39):
        assert_as_stored(dataset.eeg(row), microvolts[row])
    wanted = InputDescription.of(dataset.metadata)
    assert wanted.unit == "microvolt"
    assert dataset.metadata.preprocessing["unit_of_the_files"] == unit


def test_without_a_unit_values_are_stored_as_they_are(arrays: Path) -> None:
    dataset = ingest(_array_source(arrays), arrays / "out")
    assert InputDescription.of(dataset.metadata).unit is None
    assert "unit" not in dataset.metadata.preprocessing
