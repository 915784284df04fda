"""A BIDS folder: events.tsv, channels.tsv, participants.tsv, and the entities of the files' names."""

from pathlib import Path
from typing import Any

import mne
import numpy as np
import pytest
from recording_files import annotate, export, make_raw, regular_events, write_brainvision, write_images
from source_files import write_table

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.bids import BidsOptions, BidsSource
from neuroimagen.data_shards.sources.ingest import ingest
from neuroimagen.data_shards.sources.mne import MneOptions, MneSource

Rows = list[dict[str, Any]]


def event_rows(num: int = 8) -> Rows:
    return [
        {
            "onset": 2 + 3 * number,
            "duration": "n/a" if number % 2 else 100,
            "trial_type": "rest" if number == 5 else "stimulus",
            "value": 10 + number % 4,
            "stim_file": "n/a"
            if number == 5
            else f"set\\p{number % 4}.png"
            if number % 2
            else f"set/p{number % 4}.png",
            "category": "n/a" if number == 5 else f"c{number % 4}",
        }
        for number in range(num)
    ]


def add_recording(root: Path, name: str, rows: Rows | None = None, *, channels: Rows | None = None) -> Path:
    """A BrainVision recording of four channels without markers, and its tables; subject and session from the name."""
    parts = dict(part.split("-", 1) for part in name.split("_") if "-" in part)
    folder = root / f"sub-{parts['sub']}" / (f"ses-{parts['ses']}" if "ses" in parts else "") / "eeg"
    folder.mkdir(parents=True, exist_ok=True)
    data = np.random.default_rng(len(name)).standard_normal((4, 6000)) * 20
    path = write_brainvision(folder / f"{name}_eeg.vhdr", data, ("Fz", "Cz", "Oz", "Aux"), [])
    if rows is not None:
        write_table(folder / f"{name}_events.tsv", rows)
    if channels is not None:
        write_table(folder / f"{name}_channels.tsv", channels)
    return path


def write_study(root: Path) -> Path:
    for name in ("sub-P1_ses-1_task-see_run-1", "sub-P1_ses-1_task-see_run-2", "sub-C1_ses-2_task-see"):
        add_recording(root, name, event_rows())
    add_recording(root, "sub-C1_ses-2_task-rest", [{"onset": 1, "duration": 1, "trial_type": "eyes_closed"}])
    write_images(root / "stimuli" / "set", [f"p{number}.png" for number in range(4)])
    rows = [{"participant_id": f"sub-{label}", "age": age, "group": "x"} for label, age in (("P1", 30), ("Z9", 40))]
    write_table(root / "participants.tsv", rows)
    return root


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study(tmp_path / "study")


def bids(root: Path, **options: Any) -> BidsSource:
    return BidsSource(BidsOptions(**{"root": root, "images": root / "stimuli", **options}))


def test_stimulus_and_class_columns(study: Path) -> None:
    source = bids(study, class_column="category", tasks=("see",))
    dataset = ingest(source, study.parent / "out")
    assert len(dataset) == 21
    assert dataset.index.subject.tolist() == [1] * 7 + [2] * 14
    assert dataset.index.session.tolist() == ["2"] * 7 + ["1"] * 14
    assert dataset.index.onset_s.tolist() == [2, 5, 8, 11, 14, 20, 23] * 3
    assert [info.name for info in dataset.metadata.classes] == ["c0", "c1", "c2", "c3"]
    assert [dataset.stimuli.keys[row] for row in dataset.index.stimulus[:4]] == [f"set_p{n}" for n in range(4)]
    provenance = dataset.metadata.provenance
    assert provenance["source"] == "bids"
    assert provenance["subject_labels"] == {"C1": 1, "P1": 2}
    assert provenance["bids"]["stimulus_columns"] == ["stim_file"]
    assert provenance["bids"]["class_columns"] == ["category"]
    assert source.notes[0] == "stimuli are those of column 'stim_file' of events.tsv, classes those of 'category'"
    files = [name for name in provenance["files"] if "sub-C1" in name]
    assert [name.rpartition("task-see_")[2] for name in files] == ["eeg.eeg", "eeg.vhdr", "eeg.vmrk", "events.tsv"]
    assert provenance["bids"]["participants"] == {"P1": {"age": "30", "group": "x"}}
    notes = " ".join(source.notes)
    assert "3 of 4 recordings are taken" in notes
    assert "1 subjects are not in participants.tsv: C1" in notes
    assert "1 of 2 participants have no recording that is taken: Z9" in notes
    assert "1 rows of events.tsv are no stimuli by their column 'stim_file': 'n/a' × 1" in notes


def test_a_table_explains_the_values_of_a_column(study: Path, tmp_path: Path) -> None:
    codes = [{"event": f"{10 + n}.0", "image": f"set/p{n}.png", "class": f"k{n}"} for n in (0, 1, 2)]
    table = write_table(tmp_path / "codes.csv", codes)
    source = bids(study, events=table, stimulus_column="value", subjects=("sub-C1",))
    assert source.num_segments() == 6
    notes = " ".join(source.notes)
    assert "are no stimuli by their column 'value': '13' × 2" in notes
    assert "2 of 4 recordings are taken" in notes
    # The other task's events.tsv has no such column.
    with pytest.raises(UserError, match="has no column 'value'"):
        bids(study, events=table, stimulus_column="value", tasks=("rest",))


def test_wrong_columns_and_labels_are_named(study: Path) -> None:
    with pytest.raises(
        UserError, match=r"--stimulus-column: .*events\.tsv has no column 'picture'; its columns are onset"
    ):
        bids(study, stimulus_column="picture", tasks=("see",))
    with pytest.raises(UserError, match=r"no column 'kind'.*--class-column"):
        bids(study, class_column="kind", tasks=("see",))
    with pytest.raises(UserError, match=r"--subjects: .* has no subject 'P2'; there are C1, P1"):
        bids(study, subjects=("P2",))
    with pytest.raises(UserError, match=r"no recording below .* is of all that"):
        bids(study, tasks=("rest",), runs=("1",))
    with pytest.raises(UserError, match="there is no folder"):
        bids(study / "none")
    for number in (1, 2, 3):
        (study / f"stimuli/set/p{number}.png").unlink()
    with pytest.raises(UserError, match=r"3 of 4 images under .* can't be stored"):
        bids(study, class_column="category", tasks=("see",))


def test_a_recording_without_events_tsv(tmp_path: Path) -> None:
    root = tmp_path / "study"
    add_recording(root, "sub-1_task-see")
    with pytest.raises(UserError, match=r"has no events\.tsv.*data ingest mne"):
        bids(root)
    add_recording(root, "sub-2_task-see", event_rows())
    write_images(root / "stimuli" / "set", [f"p{number}.png" for number in range(4)])
    source = bids(root, class_column="category")
    assert source.num_segments() == 7
    assert any("1 of 2 recordings have none of the table's events" in note for note in source.notes)


def channel_rows(**changes: tuple[str, str]) -> Rows:
    kinds = {"Fz": ("EEG", "good"), "Cz": ("EEG", "good"), "Oz": ("EEG", "good"), "Aux": ("EEG", "good"), **changes}
    return [{"name": n, "type": kind, "units": "µV", "status": status} for n, (kind, status) in kinds.items()]


def test_channels_tsv_says_types_and_bad_channels(tmp_path: Path) -> None:
    root = tmp_path / "study"
    channels = channel_rows(Cz=("EEG", "bad"), Aux=("EOG", "good"))
    add_recording(root, "sub-1_task-see", event_rows(), channels=channels)
    write_images(root / "stimuli" / "set", [f"p{number}.png" for number in range(4)])
    source = bids(root, class_column="category")
    assert source.metadata().channel_names == ("Fz", "Oz")
    note = next(note for note in source.notes if "left out" in note)
    assert "Cz (marked bad)" in note
    assert "Aux (eog, as stated)" in note
    # A channel that its name says to be none is EEG if channels.tsv says so.
    write_table(root / "sub-1/eeg/sub-1_task-see_channels.tsv", channel_rows())
    assert bids(root, class_column="category").metadata().channel_names == ("Fz", "Cz", "Oz", "Aux")
    (root / "sub-1/eeg/sub-1_task-see_channels.tsv").unlink()
    assert bids(root, class_column="category").metadata().channel_names == ("Fz", "Cz", "Oz")
    write_table(root / "sub-1/eeg/sub-1_task-see_channels.tsv", channel_rows()[:2])
    some = bids(root, class_column="category")
    assert some.metadata().channel_names == ("Fz", "Cz", "Oz")
    assert any("MNE says: The number of channels in the channels.tsv sidecar file (2)" in note for note in some.notes)


def test_events_tsv_serves_ingest_mne_too(study: Path, tmp_path: Path) -> None:
    rows = [{"event": f"set/p{n}.png", "image": f"set/p{n}.png", "class": f"k{n}"} for n in (0, 2)]
    table = write_table(tmp_path / "codes.csv", rows)
    source = MneSource(MneOptions(recordings=(study,), events=table, images=study / "stimuli"))
    assert source.num_segments() == 12
    onsets = [segment.onset_s for segment in source.segments()][:4]
    assert onsets == [2, 8, 14, 20]


def test_derivatives_and_meg(tmp_path: Path) -> None:
    root = tmp_path / "derivatives" / "clean"
    raw = make_raw(30, names=("MEG1", "MEG2", "EEG1"), types=("mag", "mag", "eeg"))
    raw._data[:2] *= 1e-8
    path = root / "sub-01/meg/sub-01_task-see_proc-clean_meg.fif"
    export(annotate(raw, regular_events(8)), path)
    write_table(root / "sub-01/meg/sub-01_task-see_proc-clean_events.tsv", event_rows())
    write_images(root / "stimuli" / "set", [f"p{number}.png" for number in range(4)])
    (root / "sub-01/meg/._sub-01_task-see_proc-clean_meg.fif").write_bytes(b"\0\5")
    source = bids(root, class_column="category", picks=("meg",))
    assert source.metadata().channel_names == ("MEG1", "MEG2")
    expected = mne.io.read_raw(path, verbose="ERROR").get_data(picks="meg", start=400, stop=600) * 1e15
    np.testing.assert_allclose(next(source.segments()).eeg, expected, rtol=1e-5)
    assert bids(root, class_column="category").metadata().channel_names == ("EEG1",)
