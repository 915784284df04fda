"""Recordings that MNE reads, cut by a table of events."""

import argparse
import csv
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pytest
from source_files import write_image, write_table

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.ingest import ingest
from neuroimagen.data_shards.sources.mne import MneOptions, MneSource


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
        write_image(tmp_path / "images" / f"{number}.jpg", number)
    rows = [{"event": f"pic/{n}", "image": f"{n}.jpg", "class": ("cat", "dog")[n % 2]} for n in range(20)]
    write_table(tmp_path / "events.tsv", rows)
    return tmp_path


def _mne(folder: Path, **changes: Any) -> MneOptions:
    return MneOptions(
        **{
            "recordings": (folder / "bids",),
            "events": folder / "events.tsv",
            "images": folder / "images",
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
    with pytest.raises(UserError, match="there is no recording"):
        MneSource(_mne(bids, recordings=(bids / "none.fif",)))
    with pytest.raises(UserError, match="holds no file sub-"):
        MneSource(_mne(bids, recordings=(bids / "images",)))
    (bids / "text.edf").write_text("no EDF")
    with pytest.raises(UserError, match="MNE cannot read"):
        MneSource(_mne(bids, recordings=(bids / "text.edf",)))
    with pytest.raises(UserError, match="has no channel 'Fz'"):
        MneSource(_mne(bids, bad_channels=("Fz",)))
    with pytest.raises(UserError, match="needs more than the 200 Hz"):
        MneSource(_mne(bids, band_hz=(1.0, 100.0)))
    with pytest.raises(UserError, match="not before"):
        _mne(bids, tmin=2.0)
    write_table(bids / "events.tsv", [{"event": "x", "image": "1.jpg", "class": "cat"}])
    with pytest.raises(UserError, match="none of the table's events"):
        MneSource(_mne(bids))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"band_hz": (40.0, 1.0)}, "--band 40:1 must run from low to high"),  # MNE would remove 1 to 40 Hz
        ({"baseline": (0.2, -0.2)}, r"--baseline 0\.2:-0\.2 ends before it starts"),
        ({"resample": -5.0}, "--resample -5 is not a sampling rate"),
        ({"resample": 0.0}, "--resample 0 is not a sampling rate"),
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
        notes = [note for note in MneSource(_mne(bids, **changes)).notes if "never vary" not in note]
        return [note for note in notes if not note.endswith("1 channels left out: EOG (eog, as the file says)")]

    assert notes_of() == []
    with (bids / "events.tsv").open("a", newline="") as file:
        csv.writer(file, delimiter="\t").writerow(["pic/99", "0.jpg", "cat"])
    notes = notes_of(tmax=8.5, resample=50.0)
    assert "17 of 18 segments share samples with the one after them" in notes[1]
    assert len(notes) == 5
    assert "sub-01_task-see_eeg.fif: 2 of 20 segments dropped (2: they run over the recording's ends)" in notes[0]
    assert notes[4] == "3 of the table's 21 events are in no segment: pic/18, pic/19, pic/99"


def test_the_bits_of_a_trigger_line_are_decimal_or_hexadecimal(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    MneSource.add_arguments(parser)
    needed = ["--recordings", "a.fif", "--events", "e.csv", "--images", "i"]
    assert parser.parse_args([*needed, "--trigger-mask", "0xFF"]).trigger_mask == 255
    assert parser.parse_args([*needed, "--trigger-mask", "15"]).trigger_mask == 15
    with pytest.raises(SystemExit):
        parser.parse_args([*needed, "--trigger-mask", "low"])
    assert "'low' is no whole number, such as 255 or 0xFF" in capsys.readouterr().err
    with pytest.raises(UserError, match="--trigger-mask 0 chooses no bit"):
        MneOptions(recordings=(), events=Path(), images=Path(), trigger_mask=0)
