"""Who was recorded: options, BIDS entities, tables, files; never folders above."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from recording_files import annotate, export, make_raw, regular_events, write_edf

from neuroimagen.data_shards.common.errors import UsageError
from neuroimagen.data_shards.sources.ingest import ingest
from neuroimagen.data_shards.sources.mne import MneSource

Cut = Callable[..., MneSource]
EVENTS = regular_events(3, step=2.0)


def recordings(folder: Path, *names: str) -> list[Path]:
    raw = annotate(make_raw(10), EVENTS)
    return [export(raw, folder / name) for name in names]


def subjects(source: MneSource) -> list[int]:
    return [segment.subject for segment in source.segments()][::3]


def said_of_subjects(source: MneSource) -> str:
    return " ".join(note for note in source.notes if "subject" in note)


def test_folders_above_do_not_say_who_was_recorded(tmp_path: Path, cut: Cut) -> None:
    root = tmp_path / "sub-77-archive"
    recordings(root, "sub-01/eeg/sub-01_task-a_eeg.fif", "sub-02/eeg/sub-02_task-a_eeg.fif")
    assert subjects(cut(root)) == [1, 2]


def test_runs_and_sessions_of_one_person_are_one_subject(tmp_path: Path, cut: Cut) -> None:
    names = [f"sub-{s}/ses-{e}/eeg/sub-{s}_ses-{e}_run-{r}_eeg.fif" for s in "AB" for e in (1, 2) for r in (1, 2)]
    recordings(tmp_path / "study", *names)
    source = cut(tmp_path / "study")
    assert subjects(source) == [1] * 4 + [2] * 4
    assert "A is 1, B is 2" in said_of_subjects(source)
    dataset = ingest(source, tmp_path / "out")
    assert dataset.index.session.tolist()[::3] == ["1", "1", "2", "2"] * 2
    assert dataset.index.recording.tolist()[::3] == names
    assert dataset.metadata.provenance["subject_labels"] == {"A": 1, "B": 2}


def test_labels_that_share_digits_are_two_people(tmp_path: Path, cut: Cut) -> None:
    recordings(tmp_path / "study", *(f"sub-{s}/eeg/sub-{s}_task-a_eeg.fif" for s in ("P1", "C1", "1")))
    assert sorted(subjects(cut(tmp_path / "study"))) == [1, 2, 3]


def test_files_whose_names_say_nothing(tmp_path: Path, cut: Cut) -> None:
    paths = recordings(tmp_path, *(f"{who}_run{run}_raw.fif" for who in ("alice", "bob") for run in (1, 2)))
    source = cut(*paths)
    assert len(set(subjects(source))) == 4
    assert "nothing says which subject 4 of 4 recordings are of" in said_of_subjects(source)
    assert "--subject" in said_of_subjects(source)
    stated = cut(*paths, subject=("alice", "alice", "bob", "bob"), session=("1", "2", "1", "2"))
    assert subjects(stated) == [1, 1, 2, 2]
    assert [segment.session for segment in stated.segments()][::3] == ["1", "2", "1", "2"]
    assert subjects(cut(*paths, subject=("7",))) == [7] * 4
    with pytest.raises(UsageError, match="--subject has 3 labels for 4 recordings"):
        cut(*paths, subject=("a", "b", "c"))
    with pytest.raises(UsageError, match="--session has 2 labels for 4 recordings"):
        cut(*paths, session=("a", "b"))
    alone = cut(paths[0])
    assert subjects(alone) == [1]
    assert said_of_subjects(alone) == ""


def test_what_the_file_itself_says(tmp_path: Path, cut: Cut) -> None:
    noise = np.random.default_rng(0).standard_normal(2000) * 20
    signals = [("Fz", "uV", noise, 200), ("Oz", "uV", noise[::-1], 200)]
    paths = [
        write_edf(tmp_path / f"{name}.edf", signals, EVENTS, patient=f"{patient} X X X")
        for name, patient in (("a", "K17"), ("b", "K17"), ("c", "K4"))
    ]
    source = cut(*paths)
    assert source.metadata().provenance["subject_labels"] == {"K4": 1, "K17": 2}
    assert subjects(source) == [2, 2, 1]


def test_one_label_in_two_folders_may_be_two_people(tmp_path: Path, cut: Cut) -> None:
    for study in ("first", "second"):
        recordings(tmp_path / study, "sub-01/eeg/sub-01_task-a_eeg.fif")
    source = cut(tmp_path / "first", tmp_path / "second")
    assert subjects(source) == [1, 2]
    assert (
        "2 BIDS folders were given, and one label may be two people: labels of subjects begin with"
        in said_of_subjects(source)
    )
    assert {segment.recording for segment in source.segments()} == {
        f"{study}/sub-01/eeg/sub-01_task-a_eeg.fif" for study in ("first", "second")
    }
