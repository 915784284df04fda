"""THINGS-EEG2 as a data set: one recording through all forms, options, splits, and what is said of odd files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from source_files import Bomb
from stored_eeg import assert_as_stored
from things_files import (
    TEST_CONCEPTS,
    TRAIN_CONCEPTS,
    USUAL_CHANNELS,
    whitened_by_the_usual_code,
    write_dictionary,
    write_images,
    write_neurobridge,
    write_pt,
    write_raw,
)

from neuroimagen.data_shards.common.errors import UsageError, UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.sources.ingest import ingest
from neuroimagen.data_shards.sources.things.eeg2 import ThingsEeg2Options, ThingsEeg2Source

FORMS = ("authors", "plain", "pt", "neurobridge")
RNG = np.random.default_rng(0)
EEG = {
    (subject, half): RNG.standard_normal(shape).astype(np.float16).astype(np.float64)
    for subject in (1, 2)
    for half, shape in (("train", (12, 4, 5, 250)), ("test", (3, 8, 5, 250)))
}
"""Values that float16 holds: all forms can have the same."""


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images")


def write_form(root: Path, form: str, eeg: dict[tuple[int, str], np.ndarray] = EEG, **changes: Any) -> Path:
    for (subject, half), values in eeg.items():
        if form == "pt":
            session = np.arange(values.shape[0] * values.shape[1]).reshape(values.shape[:2]) % 4
            write_pt(root, subject, half, values, session, **changes)
        elif form == "neurobridge":
            write_neurobridge(root, subject, half, values)
        else:
            write_dictionary(root, subject, half, values, plain=form == "plain", **changes)
    return root


def source(eeg: Path, images: Path, **changes: Any) -> ThingsEeg2Source:
    return ThingsEeg2Source(ThingsEeg2Options(**{"eeg": eeg, "images": images, "val_concepts": 2, **changes}))


def stored(dataset: Dataset) -> list[tuple[bytes, str, int, str]]:
    """Bytes, stimulus, subject and split of every segment."""
    index = dataset.index
    return [
        (
            bytes(dataset.eeg_bytes(row)),
            dataset.stimuli.keys[index.stimulus[row]],
            int(index.subject[row]),
            str(index.split[row]),
        )
        for row in range(len(dataset))
    ]


def test_one_recording_through_all_forms_gives_the_same_bytes(tmp_path: Path, images: Path) -> None:
    found = {}
    for form in FORMS:
        made = source(write_form(tmp_path / form, form), images)
        found[form] = stored(dataset := ingest(made, tmp_path / "out" / form))
        assert made.num_segments() == len(dataset) == 2 * (12 * 4 + 3 * 8)
        assert (dataset.metadata.sfreq, dataset.metadata.channel_names) == (250.0, tuple(USUAL_CHANNELS))
        assert dataset.metadata.provenance["form"] in made.notes[0]
    for form in FORMS[1:]:
        assert found[form] == found["authors"], form
    assert len({entry[0] for entry in found["authors"]}) == len(found["authors"])


def test_raw_gives_the_bytes_of_what_the_usual_code_whitens(tmp_path: Path, images: Path) -> None:
    write_raw(tmp_path / "raw")
    raw = source(tmp_path / "raw", images)
    segments = list(raw.segments())
    eeg = {
        (subject, half): np.empty((images_of, times, 5, 250))
        for subject in (1, 2)
        for half, images_of, times in (("train", 12, 4), ("test", 3, 8))
    }
    places: dict[tuple[int, str, str], int] = {}
    keys = [path.stem for path in raw._halves["train"].paths], [path.stem for path in raw._halves["test"].paths]
    for segment in segments:
        half = "test" if segment.split == "test" else "train"
        image = keys[half == "test"].index(segment.stimulus)
        place = places.get((segment.subject, half, segment.stimulus), 0)
        eeg[segment.subject, half][image, place] = segment.eeg
        places[segment.subject, half, segment.stimulus] = place + 1
    for subject in (1, 2):
        for half, (expected, _) in whitened_by_the_usual_code(tmp_path / "raw", subject).items():
            np.testing.assert_allclose(eeg[subject, half], expected, rtol=1e-6, atol=1e-6)
    whitened = stored(ingest(raw, tmp_path / "out" / "raw"))
    for form in ("plain", "neurobridge"):
        again = source(write_form(tmp_path / form, form, eeg), images)
        assert stored(ingest(again, tmp_path / "out" / form)) == whitened
    dataset = Dataset.open(tmp_path / "out" / "raw")
    assert set(dataset.index.session.tolist()) == {"1", "2", "3", "4"}
    assert np.isfinite(dataset.index.onset_s).all()
    assert "sub-01/ses-01/raw_eeg_training" in set(dataset.index.recording.tolist())


@pytest.mark.parametrize("form", ["plain", "pt"])
def test_repetitions_are_kept_or_averaged_by_split(tmp_path: Path, images: Path, form: str) -> None:
    eeg = write_form(tmp_path / "eeg", form)
    for words, counts in (
        (("keep",), (64, 32, 48)),
        (("average",), (16, 8, 6)),
        (("train=keep", "test=average"), (64, 32, 6)),
        (("val=average", "test=average"), (64, 8, 6)),
    ):
        made = source(eeg, images, repetitions=words)
        dataset = ingest(made, tmp_path / "-".join(words))
        assert tuple(dataset.metadata.split_counts[split] for split in ("train", "val", "test")) == counts
        assert made.num_segments() == len(dataset)
    stimulus = dataset.stimuli.keys.index("new_1_01b")
    row = np.flatnonzero((dataset.index.subject == 2) & (dataset.index.stimulus == stimulus))
    assert_as_stored(dataset.eeg(int(row[0])), EEG[2, "test"][1].mean(axis=0), roundings=2)
    assert dataset.metadata.preprocessing["repetitions"] == {"train": "keep", "val": "average", "test": "average"}


def test_the_test_is_zero_shot_and_validation_as_well(tmp_path: Path, images: Path) -> None:
    dataset = ingest(source(write_form(tmp_path / "eeg", "pt"), images), tmp_path / "out")
    names = [entry.name for entry in dataset.metadata.classes]
    of = {
        split: {names[label] for label in dataset.index.label[dataset.rows(split)]}
        for split in ("train", "val", "test")
    }
    assert of["test"] == {"new 0", "new 1", "new 2"}
    assert len(of["val"]) == 2
    assert of["train"] | of["val"] == {f"thing {c}" for c in range(6)}
    assert not of["train"] & of["val"]


def test_leaving_a_subject_out_tests_on_its_test_images(tmp_path: Path, images: Path) -> None:
    made = source(write_form(tmp_path / "eeg", "plain"), images, split="leave-subject-out:2")
    dataset = ingest(made, tmp_path / "out")
    test, names = dataset.rows("test"), np.array([entry.name for entry in dataset.metadata.classes])
    assert set(dataset.index.subject[test].tolist()) == {2}
    assert len(test) == 3 * 8
    rest = np.setdiff1d(np.arange(len(dataset)), test)
    assert set(dataset.index.subject[rest].tolist()) == {1}
    assert not any(name.startswith("new") for name in names[dataset.index.label[rest]])
    assert len(rest) == 12 * 4
    assert any(note.startswith("72 of 144 trials are in none of train, val and test") for note in made.notes)
    with pytest.raises(UserError, match="leave-subject-out:7"):
        source(tmp_path / "eeg", images, split="leave-subject-out:7")


def test_by_session_needs_sessions(tmp_path: Path, images: Path) -> None:
    made = source(write_form(tmp_path / "pt", "pt"), images, split="by-session")
    sessions = {(record.split, record.session) for record in made.segments()}
    assert sessions == {("train", "0"), ("train", "1"), ("val", "2"), ("test", "3")}
    with pytest.raises(UserError, match="session"):
        source(write_form(tmp_path / "plain", "plain"), images, split="by-session")


def test_channels_and_a_window_are_cut_out(tmp_path: Path, images: Path) -> None:
    eeg = write_form(tmp_path / "eeg", "neurobridge")
    made = source(eeg, images, channels=("occipito-parietal",), window=(25, 75))
    dataset = ingest(made, tmp_path / "out")
    assert dataset.metadata.channel_names == ("P7", "O1", "Oz")
    assert (dataset.metadata.n_samples, dataset.metadata.preprocessing["first_sample_s"]) == (50, pytest.approx(0.1))
    np.testing.assert_array_equal(dataset.eeg(0), EEG[1, "train"][0, 0, 2:, 25:75].astype(np.float32))
    for changes, message in (
        ({"window": (0, 251)}, "the segments have 250"),
        ({"window": (9, 9)}, "is empty"),
        ({"channels": ("Fz",)}, "has no channel 'Fz'"),
        ({"whitening": "none"}, "is for raw recordings"),
        ({"whitening": "some"}, "is neither session nor none"),
        ({"split": "sideways"}, "is not one of"),
        ({"split": "by-image"}, "by-image"),
        ({"val_concepts": 6}, "--val-concepts 6 of 6"),
        ({"subjects": (7,)}, r"subject 7 is not under .*; there are \[1, 2\]"),
    ):
        with pytest.raises((UserError, UsageError), match=message):
            source(eeg, images, **changes)


def test_a_stim_line_among_the_channels_is_left_out_and_said(tmp_path: Path, images: Path) -> None:
    eeg = write_form(tmp_path / "eeg", "plain", ch_names=[*USUAL_CHANNELS[:4], "stim"])
    made = source(eeg, images)
    assert made.metadata().channel_names == tuple(USUAL_CHANNELS[:4])
    assert any(note.startswith("channels stim are left out") for note in made.notes)


def test_images_that_the_files_name_decide_the_order(tmp_path: Path, images: Path) -> None:
    """train.pt names the image of every row: rows in another order are other images."""
    backwards = {}
    for (subject, half), values in EEG.items():
        backwards[subject, half] = values
    eeg = write_form(tmp_path / "eeg", "pt", backwards)
    for subject in (1, 2):
        names = [f"train_images/{c}/thing_{n // 2}_{n:02d}s.jpg" for n, c in enumerate(TRAIN_CONCEPTS)][::-1]
        write_pt(
            eeg, subject, "train", EEG[subject, "train"], np.zeros((12, 4)), img=np.tile(np.array(names)[:, None], 4)
        )
    record = next(source(eeg, images).segments())
    assert record.stimulus == "thing_5_11s"
    np.testing.assert_array_equal(record.eeg, EEG[1, "train"][0, 0].astype(np.float32))


def test_kinds_of_numbers(tmp_path: Path, images: Path) -> None:
    """float16, Fortran order and whole numbers come out as they are; NaN is refused by the writer, with its segment."""
    for name, kind in {
        "half": lambda x: x.astype(np.float16),
        "fortran": np.asfortranarray,
        "single": lambda x: x.astype(np.float32),
        "whole": lambda x: np.rint(x * 100).astype(np.int32),
    }.items():
        eeg = write_form(tmp_path / name, "plain", {key: kind(values) for key, values in EEG.items()})
        record = next(source(eeg, images).segments())
        expected = np.rint(EEG[1, "train"][0, 0] * 100) if name == "whole" else EEG[1, "train"][0, 0]
        np.testing.assert_array_equal(record.eeg, expected.astype(np.float32))
    damaged = {key: values.copy() for key, values in EEG.items()}
    damaged[1, "train"][3, 1, 2, 5] = np.nan
    with pytest.raises(UserError, match=r"subject 1, stimulus thing_1_03s\) holds NaN"):
        ingest(source(write_form(tmp_path / "nan", "plain", damaged), images), tmp_path / "out")


def test_files_that_differ_or_are_absent_are_named(tmp_path: Path, images: Path) -> None:
    """Channels in another order have the same shape: mixed silently, every spatial filter would be wrong."""
    eeg = write_form(tmp_path / "eeg", "plain")
    values = EEG[2, "train"]
    for data, changes, message in (
        (values, {"ch_names": [USUAL_CHANNELS[0], *USUAL_CHANNELS[:0:-1]]}, "differ from channel 1 on"),
        (values[..., :-1], {"times": np.arange(249) / 250}, "5 channels × 249 samples"),
        (values[:, :, :-1], {"ch_names": USUAL_CHANNELS[:-1]}, "must have the same channels in the same order"),
        (values[:-1], {}, r"has 11 images; image_metadata\.npy lists 12"),
        (values, {"times": np.arange(250) / 125}, "has other times than the first subject's"),
    ):
        (eeg / "sub-02" / "preprocessed_eeg_training.npy").unlink()
        path = write_dictionary(eeg, 2, "train", data, plain=True, **changes)
        with pytest.raises(UserError, match=rf"sub-02/preprocessed_eeg_training\.npy.*{message}"):
            source(eeg, images)
    path.unlink()
    with pytest.raises(UserError, match=r"1 of 4 EEG files are missing, the first is .*sub-02.*training\.npy"):
        source(eeg, images)
    assert len(ingest(source(eeg, images, subjects=(1,)), tmp_path / "out")) > 0
    with pytest.raises(UserError, match=r"sfreq is 0\.0"):
        source(eeg, images, subjects=(1,), sfreq=0.0).metadata()


def test_images_that_are_missing_or_share_a_name_are_said(tmp_path: Path, images: Path) -> None:
    eeg = write_form(tmp_path / "eeg", "plain")
    content = np.load(images / "image_metadata.npy", allow_pickle=True).item()
    (images / "training_images" / TRAIN_CONCEPTS[2]).rename(images / "training_images" / "00099_thing_0")
    content["train_img_concepts"] = ["00099_thing_0" if c == TRAIN_CONCEPTS[2] else c for c in TRAIN_CONCEPTS]
    np.save(images / "image_metadata.npy", content)
    assert any("thing 0: 00001_thing_0, 00099_thing_0" in note for note in source(eeg, images).notes)
    (images / "test_images" / TEST_CONCEPTS[1] / "new_1_01b.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of 15 images are missing or unreadable: test_images/.*new_1.*\(missing\)"):
        source(eeg, images)


def test_a_bomb_does_not_go_off(tmp_path: Path, images: Path) -> None:
    witness = tmp_path / "witness"
    eeg = write_form(tmp_path / "eeg", "plain", more=Bomb(witness))
    with pytest.raises(UserError, match=r"is refused: its pickle asks for posix\.system"):
        source(eeg, images)
    assert not witness.exists()
