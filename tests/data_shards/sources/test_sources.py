"""The other sources: arrays with a table, THINGS-EEG2 in both forms, recordings through MNE."""

import csv
import os
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pytest
from stored_eeg import assert_as_stored

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.verify import verify
from neuroimagen.data_shards.sources.arrays import ArraySource, LabelTable, load_segments
from neuroimagen.data_shards.sources.base import ingest
from neuroimagen.data_shards.sources.mne import MneOptions, MneSource
from neuroimagen.data_shards.sources.restricted_npy import load_npy
from neuroimagen.data_shards.sources.things_eeg2 import ThingsEeg2Options, ThingsEeg2Source

RNG = np.random.default_rng(0)


def _picture(path: Path, seed: int) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def _table(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
    return path


# --- arrays


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    """40 segments of 20 pictures, two classes."""
    np.save(tmp_path / "eeg.npy", RNG.standard_normal((40, 3, 16)))
    for number in range(20):
        _picture(tmp_path / "pictures" / f"set {number % 2}" / f"{number}.png", number)
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
    _table(tmp_path / "table.csv", rows)
    return tmp_path


def _array_source(folder: Path, **changes: Any) -> ArraySource:
    options = {"name": "mine", "images": folder / "pictures", "sfreq": 250.0, "files": (folder / "eeg.npy",), **changes}
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
        (lambda rows: rows[3].update(subject="one"), "line 5: subject 'one' is no whole number"),
        (lambda rows: rows[3].update(image="none.png"), r"1 of 21 pictures .* can't be read: none\.png \(No such file"),
        (lambda rows: rows[3].update(image="../table.csv"), "outside the image folder"),
        (lambda rows: rows[3].update({"class": "cat"}), r"set 1/3\.png stands under two classes"),
        (lambda rows: [row.update(split="training") for row in rows], "line 2: split 'training'"),
        (lambda rows: [row.pop("image") for row in rows], "no column 'image'.*its first line is 'class', 'subject'"),
        (
            lambda rows: [row.update(Split="train") for row in rows],
            "column 'Split' is none of ours; did you mean 'split'",
        ),
        (lambda rows: [row.update(blok=1) for row in rows], "column 'blok' .* did you mean 'block'"),
    ],
)
def test_wrong_tables_are_named(arrays: Path, edit: Any, message: str) -> None:
    with (arrays / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    edit(rows)
    _table(arrays / "table.csv", rows)
    with pytest.raises(UserError, match=message):
        _array_source(arrays)


def test_columns_of_ones_own_do_no_harm(arrays: Path) -> None:
    with (arrays / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    _table(arrays / "table.csv", [{**row, "session": 1, "reaction_ms": 300, "orders": ""} for row in rows])
    assert _array_source(arrays).num_segments() == 40


def test_tables_in_another_form_are_named(arrays: Path) -> None:
    table, text = arrays / "table.csv", (arrays / "table.csv").read_text()
    table.write_text(text.replace(",", ";"))
    with pytest.raises(UserError, match=r"no column 'image'.*its first line is 'image;class;"):
        LabelTable.read(table)
    table.write_bytes(text.replace("cat", "Kätzchen").encode("latin-1"))
    with pytest.raises(UserError, match=r"table\.csv is not UTF-8 \(byte \d+\); save it as that"):
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
        ({"band_hz": (40.0, 1.0)}, "--band 40:1 is no band from low to high"),
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


# --- THINGS-EEG2


class _Bomb:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple:
        return os.system, (f"touch '{self.witness}'",)


def _save_pickled(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, content, allow_pickle=True)


@pytest.fixture(params=[(17, 100, np.float32), (63, 250, np.float64)], ids=["17 channels", "63 channels"])
def things(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """6 training concepts × 2 pictures × 4 repetitions, 3 test concepts × 1 × 5, two subjects."""
    n_channels, n_samples, dtype = request.param
    train = [f"{c + 1:05d}_thing_{c}" for c in range(6) for _ in range(2)]
    test = [f"{c + 1:05d}_new_{c}" for c in range(3)]
    names = {"train": [f"thing_{n // 2}_{n}.jpg" for n in range(12)], "test": [f"new_{n}.jpg" for n in range(3)]}
    for part, concepts in (("train", train), ("test", test)):
        for concept, name in zip(concepts, names[part], strict=True):
            _picture(
                tmp_path / "images" / {"train": "training_images", "test": "test_images"}[part] / concept / name, 0
            )
    _save_pickled(
        tmp_path / "images" / "image_metadata.npy",
        {
            "train_img_concepts": train,
            "train_img_files": names["train"],
            "test_img_concepts": test,
            "test_img_files": names["test"],
        },
    )
    for subject in (1, 2):
        for word, shape in (("training", (12, 4)), ("test", (3, 5))):
            _save_pickled(
                tmp_path / "eeg" / f"sub-{subject:02d}" / f"preprocessed_eeg_{word}.npy",
                {
                    "preprocessed_eeg_data": RNG.standard_normal((*shape, n_channels, n_samples)).astype(dtype),
                    "ch_names": [f"C{c}" for c in range(n_channels)],
                    "times": np.arange(n_samples) / n_samples,
                },
            )
    return tmp_path


def _things(folder: Path, **changes: Any) -> ThingsEeg2Source:
    return ThingsEeg2Source(
        ThingsEeg2Options(**{"eeg": folder / "eeg", "images": folder / "images", "val_concepts": 2, **changes})
    )


@pytest.mark.parametrize(("repetitions", "counts"), [("keep", (64, 32, 30)), ("average", (16, 8, 6))])
def test_things_eeg2_keeps_or_averages_repetitions(things: Path, repetitions: str, counts: tuple) -> None:
    source = _things(things, repetitions=repetitions)
    dataset = ingest(source, things / "out")
    assert tuple(dataset.metadata.split_counts[part] for part in ("train", "val", "test")) == counts
    assert source.num_segments() == len(dataset)
    assert dataset.metadata.sfreq == dataset.metadata.n_samples
    by_part = {part: set(dataset.index.label[dataset.rows(part)].tolist()) for part in ("train", "val", "test")}
    assert not by_part["train"] & by_part["val"]
    assert not (by_part["train"] | by_part["val"]) & by_part["test"]
    assert dataset.metadata.classes[0].name == "thing 0"
    raw = load_npy(things / "eeg" / "sub-02" / "preprocessed_eeg_test.npy")["preprocessed_eeg_data"][1]
    picture = dataset.stimuli.keys.index("new_1")
    rows = np.flatnonzero((dataset.index.subject == 2) & (dataset.index.stimulus == picture))
    expected = raw if repetitions == "keep" else raw.mean(axis=0, keepdims=True)
    for row, eeg in zip(rows, expected, strict=True):
        assert_as_stored(dataset.eeg(row), eeg, roundings=2)


def test_things_eeg2_names_what_is_wrong(things: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"subject 7 is not under .*; there are \[1, 2\]"):
        _things(things, subjects=(7,))
    with pytest.raises(UserError, match="--val-concepts 6 of 6"):
        _things(things, val_concepts=6)
    next((things / "images" / "test_images").rglob("new_1.jpg")).unlink()
    with pytest.raises(UserError, match=r"1 of 15 pictures are missing or unreadable: new_1\.jpg"):
        _things(things)
    witness = tmp_path / "witness"
    _save_pickled(things / "eeg" / "sub-01" / "preprocessed_eeg_test.npy", {"preprocessed_eeg_data": _Bomb(witness)})
    with pytest.raises(UserError, match=r"is refused: its pickle asks for posix\.system"):
        _things(things)
    assert not witness.exists()


def test_things_eeg2_files_that_differ_or_are_absent_are_named(things: Path) -> None:
    """Channels in another order have the same shape: mixed silently, every spatial filter would be wrong."""
    path = things / "eeg" / "sub-02" / "preprocessed_eeg_training.npy"
    content = load_npy(path)
    names = content["ch_names"]
    for changes, message in (
        ({"ch_names": [names[0], *names[:0:-1]]}, r"sub-02.*training\.npy has .* differ from channel 1 on"),
        (
            {"preprocessed_eeg_data": content["preprocessed_eeg_data"][..., :-1]},
            r"sub-02.*training\.npy has .* samples",
        ),
        ({"preprocessed_eeg_data": content["preprocessed_eeg_data"][:, :, :-1], "ch_names": names[:-1]}, "same order"),
    ):
        _save_pickled(path, {**content, **changes})
        with pytest.raises(UserError, match=message):
            ingest(_things(things), things / "out")
    path.unlink()
    with pytest.raises(UserError, match=r"1 of 4 EEG files are not there, the first is .*sub-02.*training\.npy"):
        _things(things)
    assert len(ingest(_things(things, subjects=(1,)), things / "out")) > 0
    with pytest.raises(UserError, match=r"sfreq is 0\.0"):
        _things(things, subjects=(1,), sfreq=0.0).metadata()


def test_npy_files_cut_short_are_named(things: Path) -> None:
    path = things / "eeg" / "sub-01" / "preprocessed_eeg_test.npy"
    whole = path.read_bytes()
    for length in (0, 5, 60, 150, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(
            UserError, match=r"preprocessed_eeg_test\.npy (is no complete|is refused|has \.npy version)"
        ):
            load_npy(path)
    with pytest.raises(UserError, match="No such file"):
        load_npy(path.with_name("none.npy"))


# --- MNE


@pytest.fixture
def bids(tmp_path: Path) -> Path:
    """Two subjects, 20 events each at 200 Hz; the response to event k is a bump of k µV on every channel."""
    for subject in (1, 2):
        data = np.zeros((4, 200 * 50))
        for event in range(20):
            start = 400 + event * 440
            data[:, start : start + 100] = (event + 1) * 1e-6
        data += subject * 1e-5  # an offset for the baseline to remove
        info = mne.create_info(["Cz", "Pz", "Oz", "EOG"], 200.0, ["eeg", "eeg", "eeg", "eog"])
        raw = mne.io.RawArray(data, info, verbose="error")
        onsets = (400 + np.arange(20) * 440) / 200
        raw.set_annotations(mne.Annotations(onsets, 0.0, [f"pic/{event}" for event in range(20)]))
        path = tmp_path / "bids" / f"sub-{subject:02d}" / "eeg" / f"sub-{subject:02d}_task-see_eeg.fif"
        path.parent.mkdir(parents=True)
        raw.save(path, verbose="error")
    for number in range(20):
        _picture(tmp_path / "pictures" / f"{number}.jpg", number)
    rows = [{"event": f"pic/{n}", "image": f"{n}.jpg", "class": ("cat", "dog")[n % 2]} for n in range(20)]
    _table(tmp_path / "events.tsv", rows)
    return tmp_path


def _mne(folder: Path, **changes: Any) -> MneOptions:
    return MneOptions(
        **{
            "recordings": (folder / "bids",),
            "events": folder / "events.tsv",
            "images": folder / "pictures",
            "tmin": 0.1,
            "tmax": 0.4,
            "baseline": (-0.2, -0.01),
            **changes,
        }
    )


def test_recordings_are_cut_corrected_and_labelled(bids: Path) -> None:
    dataset = ingest(MneSource(_mne(bids)), bids / "out")
    assert (len(dataset), dataset.metadata.n_channels, dataset.metadata.n_samples) == (40, 3, 60)
    assert dataset.metadata.channel_names == ("Cz", "Pz", "Oz")
    assert dataset.metadata.preprocessing["unit"] == "microvolt"
    assert dataset.index.subject.tolist() == [1] * 20 + [2] * 20
    for row in range(40):
        np.testing.assert_allclose(dataset.eeg(row), row % 20 + 1, rtol=1e-3)
        assert dataset.stimuli.keys[dataset.index.stimulus[row]] == str(row % 20)


def test_filtering_resampling_and_bad_channels_are_done_and_declared(bids: Path) -> None:
    options = _mne(bids, band_hz=(1.0, 30.0), resample=100.0, bad_channels=("Pz",))
    source = MneSource(options)
    metadata = source.metadata()
    assert (metadata.sfreq, metadata.n_samples, metadata.band_hz) == (100.0, 30, (1.0, 30.0))
    assert metadata.channel_names == ("Cz", "Oz")
    assert metadata.preprocessing["left_out_channels"] == ["Pz"]
    assert next(source.segments()).eeg.shape == (2, 30)


def test_wrong_recordings_and_events_are_named(bids: Path) -> None:
    with pytest.raises(UserError, match="is not there"):
        MneSource(_mne(bids, recordings=(bids / "none.fif",)))
    with pytest.raises(UserError, match="holds no sub-"):
        MneSource(_mne(bids, recordings=(bids / "pictures",)))
    (bids / "text.edf").write_text("no EDF")
    with pytest.raises(UserError, match="MNE cannot read"):
        MneSource(_mne(bids, recordings=(bids / "text.edf",)))
    with pytest.raises(UserError, match="has no channel 'Fz'"):
        MneSource(_mne(bids, bad_channels=("Fz",)))
    with pytest.raises(UserError, match="needs more than the 200 Hz"):
        MneSource(_mne(bids, band_hz=(1.0, 100.0)))
    with pytest.raises(UserError, match="not before"):
        _mne(bids, tmin=2.0)
    _table(bids / "events.tsv", [{"event": "x", "image": "1.jpg", "class": "cat"}])
    with pytest.raises(UserError, match="none of the table's events"):
        MneSource(_mne(bids))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"band_hz": (40.0, 1.0)}, "--band 40:1 is no band from low to high"),  # MNE would take out 1 to 40 Hz
        ({"baseline": (0.2, -0.2)}, r"--baseline 0\.2:-0\.2 ends before it starts"),
        ({"resample": -5.0}, "--resample -5 is no sampling rate"),
        ({"resample": 0.0}, "--resample 0 is no sampling rate"),
    ],
)
def test_impossible_ways_to_cut_are_refused(bids: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _mne(bids, **changes)


def test_a_recording_cut_short_and_one_given_twice_are_named(bids: Path) -> None:
    path = bids / "bids" / "sub-02" / "eeg" / "sub-02_task-see_eeg.fif"
    with pytest.raises(UserError, match=r"sub-02_task-see_eeg\.fif is given twice"):
        MneSource(_mne(bids, recordings=(bids / "bids", path)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"MNE cannot read .*sub-02_task-see_eeg\.fif: "):
        MneSource(_mne(bids))


def test_what_was_left_out_is_said(bids: Path) -> None:
    def notes_of(**changes: Any) -> list[str]:
        return [note for note in MneSource(_mne(bids, **changes)).notes if "never vary" not in note]

    assert notes_of() == []
    with (bids / "events.tsv").open("a", newline="") as file:
        csv.writer(file, delimiter="\t").writerow(["pic/99", "0.jpg", "cat"])
    notes = notes_of(tmax=8.5, resample=50.0)
    assert len(notes) == 3
    assert "sub-01_task-see_eeg.fif: 2 of 20 segments dropped: they run over the recording's ends" in notes[0]
    assert notes[2] == "3 of the table's 21 events are in no segment: pic/18, pic/19, pic/99"
