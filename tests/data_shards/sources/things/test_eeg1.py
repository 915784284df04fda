"""THINGS-EEG1: BIDS BrainVision with times in samples, compared with MNE's own epochs."""

from pathlib import Path
from typing import Any

import mne
import numpy as np
import pytest
from source_files import write_image, write_table

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.things.cut_recordings import ThingsCutOptions
from neuroimagen.data_shards.sources.things.eeg1 import ThingsEeg1Source

CHANNELS = ["Fp1", "Oz", "Pz"]
TRAIN = [(f"thing{c}", f"thing{c}_{n:02d}s.jpg") for c in range(8) for n in range(2)]
TEST = [("thing0", "thing0_90b.jpg"), ("thing1", "thing1_90b.jpg")]


def write_study(root: Path, *, seconds: bool = False, subjects: tuple[int, ...] = (1, 2, 3)) -> Path:
    """Of each subject: 16 training images once, 2 test images (of two of their concepts) 12 times, 3 targets."""
    for concept, name in (*TRAIN, *TEST):
        write_image(root / "images" / concept / name, 0)
    for subject in subjects:
        rng = np.random.default_rng(subject)
        shown = [*((c, f, 0) for c, f in TRAIN), *((c, f, 1) for c, f in TEST * 12)]
        order = rng.permutation(len(shown)).tolist()
        folder = root / "bids" / f"sub-{subject:02d}" / "eeg"
        folder.mkdir(parents=True)
        rows = []
        for place, number in enumerate(order):
            concept, name, test = shown[number]
            onset = 1000 + 100 * place
            slash = "\\" if place % 2 else "/"
            rows.append(
                {
                    "onset": onset / 1000 if seconds else onset,
                    "duration": 0.05 if seconds else 50,
                    "stim": slash.join(["stimuli", concept, name]),
                    "istarget": int(place in (3, 10, 20)),
                    "isteststim": test,
                }
            )
        stem = f"sub-{subject:02d}_task-rsvp"
        write_table(folder / f"{stem}_events.tsv", rows)
        raw = mne.io.RawArray(
            rng.standard_normal((3, 1000 + 100 * len(rows) + 1000)) * 1e-5,
            mne.create_info(CHANNELS, 1000.0, "eeg"),
            verbose="ERROR",
        )
        mne.export.export_raw(folder / f"{stem}_eeg.vhdr", raw, fmt="brainvision", verbose="ERROR")
    return root


def source(study: Path, **changes: Any) -> ThingsEeg1Source:
    given = {"root": study / "bids", "images": study / "images", "tmax": 0.5, "val_concepts": 2, **changes}
    return ThingsEeg1Source(ThingsCutOptions(**given))


@pytest.mark.parametrize("seconds", [False, True])
def test_segments_are_those_that_mne_cuts(tmp_path: Path, seconds: bool) -> None:
    write_study(tmp_path, seconds=seconds, subjects=(1,))
    made = source(tmp_path, baseline=(-0.1, 0.0))
    assert any("onsets in samples, a known slip" in note for note in made.notes) != seconds
    assert any("3 of 40 trials are targets and left out" in note for note in made.notes)
    path = tmp_path / "bids" / "sub-01" / "eeg" / "sub-01_task-rsvp_eeg.vhdr"
    raw = mne.io.read_raw_brainvision(path, preload=True, verbose="ERROR")
    records = list(made.segments())
    events = np.array([[round(record.onset_s * 1000), 0, 1] for record in records])
    epochs = mne.Epochs(raw, events, tmin=-0.1, tmax=0.5, baseline=(-0.1, 0), preload=True, verbose="ERROR")
    expected = epochs.get_data(copy=True)[:, :, 100:600] * 1e6
    for record, eeg in zip(records, expected, strict=True):
        np.testing.assert_allclose(record.eeg, eeg, rtol=1e-4, atol=1e-3)
    assert made.metadata().channel_names == tuple(CHANNELS)


def test_the_test_is_zero_shot(tmp_path: Path) -> None:
    write_study(tmp_path)
    made = source(tmp_path)
    by_split = {split: list(made.segments(split)) for split in ("train", "val", "test")}
    concepts = {split: {r.stimulus.split("_")[0] for r in records} for split, records in by_split.items()}
    assert concepts["test"] == {"thing0", "thing1"}
    assert {r.stimulus for r in by_split["test"]} == {"thing0_thing0_90b", "thing1_thing1_90b"}
    assert len(concepts["val"]) == 2
    assert not concepts["train"] & (concepts["val"] | concepts["test"])
    assert sum(map(len, by_split.values())) == made.num_segments() < 3 * 37
    assert any("training images of the test images' 2 concepts and are dropped" in note for note in made.notes)
    left_out = source(tmp_path, split="leave-subject-out:2")
    assert {(r.subject, r.split) for r in left_out.segments()} == {
        (1, "train"),
        (1, "val"),
        (3, "train"),
        (3, "val"),
        (2, "test"),
    }
    assert any("not zero-shot" in note for note in source(tmp_path, split="by-image").notes)
    assert {r.subject for r in source(tmp_path, subjects=(3,)).segments()} == {3}


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    write_study(tmp_path, subjects=(1,))
    with pytest.raises(UserError, match=r"subject 7 is not under .*; there are \[1\]"):
        source(tmp_path, subjects=(7,))
    with pytest.raises(UserError, match="there is no folder"):
        source(tmp_path, root=tmp_path / "none")
    events = tmp_path / "bids" / "sub-01" / "eeg" / "sub-01_task-rsvp_events.tsv"
    text = events.read_text()
    for old, new, message in (
        ("isteststim", "is_test", "has no column 'isteststim'"),
        ("\n1000\t", "\n9999999\t", "lie neither within its 6 seconds nor within its 6000 samples"),
        ("\n1000\t", "\n1000.5\t", "lie neither within"),
        ("\t0\t0\n", "\tno\t0\n", "istarget 'no' is neither 0 nor 1"),
        ("stimuli/thing0/", "", r"image 'thing0_.*' is not of the form <concept>/<file>"),
        ("stimuli/thing0/", "stimuli/thing9/", r"3 of 18 images under .* can't be stored: thing9/.*\(missing\)"),
    ):
        events.write_text(text.replace(old, new))
        assert events.read_text() != text
        with pytest.raises(UserError, match=message):
            source(tmp_path)
    events.write_text(text.replace("\t1\n", "\t0\n"))
    with pytest.raises(UserError, match="show no test image"):
        source(tmp_path)
