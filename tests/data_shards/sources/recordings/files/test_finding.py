"""Which files are recordings."""

import shutil
from pathlib import Path

import pytest
from recording_files import annotate, export, make_raw, regular_events

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.recordings.files.finding import find_in_folder, find_recordings


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return export(annotate(make_raw(10), regular_events(3, step=2.0)), tmp_path / "x_eeg.fif")


def put(recording: Path, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(recording, path))


def test_entities_are_those_of_the_files_name(tmp_path: Path, recording: Path) -> None:
    put(recording, tmp_path / "study/sub-A1/ses-x/eeg/sub-A1_ses-x_task-see_run-02_eeg.fif")
    (file,) = find_in_folder(tmp_path / "study")
    assert (file.subject, file.session, file.task, file.run) == ("A1", "x", "see", "02")
    assert file.name == "sub-A1/ses-x/eeg/sub-A1_ses-x_task-see_run-02_eeg.fif"
    assert file.bids_root == tmp_path / "study"
    (alone,) = find_recordings([file.path])
    assert (alone.subject, alone.name, alone.bids_root) == ("A1", file.path.name, tmp_path / "study")


def test_endings_copies_and_derivatives(tmp_path: Path, recording: Path) -> None:
    root = tmp_path / "derivatives" / "clean"
    first = put(recording, root / "sub-01/eeg/sub-01_task-a_desc-clean_eeg.FIF")
    first.with_name("._" + first.name).write_bytes(b"\0\5\26\7" * 30)
    put(recording, root / "sub-02/meg/sub-02_task-a_meg.fif")
    (root / "sub-02/meg/sub-02_task-a_split-02_meg.fif").write_bytes(b"read with the first part")
    (root / "sub-03/meg/sub-03_task-a_meg.ds").mkdir(parents=True)
    (root / "sub-03/meg/sub-03_task-a_meg.ds/sub-03_task-a.meg4.fif").write_bytes(b"inside a recording")
    put(recording, root / "derivatives/other/sub-01/eeg/sub-01_task-a_eeg.fif")
    put(recording, root / ".git/sub-01/eeg/sub-01_task-a_eeg.fif")
    put(recording, root / "sub-01/eeg/sub-01_task-a_events.fif")
    assert [file.name for file in find_in_folder(root)] == [
        "sub-01/eeg/sub-01_task-a_desc-clean_eeg.FIF",
        "sub-02/meg/sub-02_task-a_meg.fif",
        "sub-03/meg/sub-03_task-a_meg.ds",
    ]
    assert [file.subject for file in find_in_folder(root, datatypes=("meg",))] == ["02", "03"]


def test_what_would_come_twice_is_refused(tmp_path: Path, recording: Path) -> None:
    path = put(recording, tmp_path / "study/sub-01/eeg/sub-01_task-a_eeg.fif")
    with pytest.raises(UserError, match="is given twice"):
        find_recordings([tmp_path / "study", path])
    path.with_suffix(".edf").write_bytes(b"the same, exported")
    with pytest.raises(UserError, match="are one recording in two formats"):
        find_in_folder(tmp_path / "study")
    with pytest.raises(UserError, match="there is no recording"):
        find_recordings([tmp_path / "none.fif"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no file sub-"):
        find_recordings([tmp_path / "empty"])


def test_names_are_short_enough_for_the_index(tmp_path: Path, recording: Path) -> None:
    long = "sub-1_task-" + "x" * 70 + "_eeg.fif"
    put(recording, tmp_path / "study/sub-1/ses-afternoon/eeg" / long)
    put(recording, tmp_path / "study/sub-2/eeg" / ("sub-2_task-" + "ü" * 60 + "_eeg.fif"))
    first, second = find_recordings([tmp_path / "study"])
    assert first.name == f"sub-1/ses-afternoon/eeg/{long}"
    assert len(second.name.encode()) <= 120
    assert second.name.endswith("_eeg.fif")


def test_folders_of_subjects(tmp_path: Path, recording: Path) -> None:
    for label in ("01", "02", "03"):
        put(recording, tmp_path / f"study/sub-{label}/eeg/sub-{label}_task-a_eeg.fif")
    files = find_recordings([tmp_path / "study/sub-03", tmp_path / "study/sub-01"])
    assert [file.name for file in files] == [f"sub-{label}/eeg/sub-{label}_task-a_eeg.fif" for label in ("03", "01")]
    assert {file.bids_root for file in files} == {tmp_path / "study"}
    # A study whose own name begins like a subject's.
    put(recording, tmp_path / "sub-old/sub-01/eeg/sub-01_task-a_eeg.fif")
    (file,) = find_recordings([tmp_path / "sub-old"])
    assert (file.name, file.bids_root) == ("sub-01/eeg/sub-01_task-a_eeg.fif", tmp_path / "sub-old")


def test_files_of_one_name_in_two_folders_have_two_names(tmp_path: Path, recording: Path) -> None:
    paths = [put(recording, tmp_path / day / "rec_raw.fif") for day in ("monday", "tuesday")]
    assert [file.name for file in find_recordings(paths)] == ["monday/rec_raw.fif", "tuesday/rec_raw.fif"]
