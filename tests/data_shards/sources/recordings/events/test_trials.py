"""A table with one row for each occurrence, joined by onset, by sample or by order, to one recording or many."""

from pathlib import Path
from typing import Any

import mne
import numpy as np
import pytest
from recording_files import annotate, export, make_raw, regular_events, write_images
from source_files import write_table

from neuroimagen.data_shards.common.errors import UsageError, UserError
from neuroimagen.data_shards.sources.ingest import ingest
from neuroimagen.data_shards.sources.mne import MneOptions, MneSource
from neuroimagen.data_shards.sources.recordings.events.trials import rows_of_recordings
from neuroimagen.data_shards.sources.recordings.files.opening import RecordingFile
from neuroimagen.data_shards.sources.recordings.tables.stimulus_table import read_stimulus_table

EVENTS = regular_events(9)
Rows = list[dict[str, Any]]


def trials(**columns: list[Any]) -> Rows:
    """Rows with images p0.png … in turn, classes c0 … of the images, and the given columns."""
    num = len(next(iter(columns.values())))
    return [
        {"image": f"p{row % 4}.png", "class": f"c{row % 4}", **{name: values[row] for name, values in columns.items()}}
        for row in range(num)
    ]


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    write_images(tmp_path / "pics", [f"p{number}.png" for number in range(4)])
    return export(annotate(make_raw(), EVENTS), tmp_path / "a_raw.fif")


def source_of(folder: Path, rows: Rows, *paths: Path, **options: Any) -> MneSource:
    table = write_table(folder / "trials.csv", rows)
    return MneSource(MneOptions(recordings=paths, trials=table, images=folder / "pics", **options))


def onsets(source: MneSource) -> list[float]:
    return [round(segment.onset_s, 6) for segment in source.segments()]


def stimuli(source: MneSource) -> list[str]:
    return [segment.stimulus for segment in source.segments()]


def test_by_onset_and_by_sample(tmp_path: Path, recording: Path) -> None:
    times = [20.0, 3.25, 7.503]  # in any order, and where the recording has no event
    by_onset = source_of(tmp_path, trials(onset=times), recording)
    assert onsets(by_onset) == [3.25, 7.505, 20.0]  # the nearest sample
    assert stimuli(by_onset) == ["p1", "p2", "p0"]
    by_sample = source_of(tmp_path, trials(sample=[4000, 650, 1501]), recording)
    assert onsets(by_sample) == [3.25, 7.505, 20.0]
    raw = mne.io.read_raw(recording, verbose="ERROR")
    np.testing.assert_allclose(next(by_sample.segments()).eeg, raw.get_data(start=650, stop=850) * 1e6, rtol=1e-5)


def test_by_order_with_a_check_on_counts(tmp_path: Path, recording: Path) -> None:
    source = source_of(tmp_path, trials(caption=[f"trial {n}" for n in range(9)]), recording)
    assert onsets(source) == [time for time, _ in EVENTS]
    assert stimuli(source) == [f"p{n % 4}" for n in range(9)]
    with pytest.raises(UserError, match=r"has 9 events \('e0' × 3.*and .*trials.csv has 8 rows.*--trial-events"):
        source_of(tmp_path, trials(caption=["x"] * 8), recording)
    some = source_of(tmp_path, trials(caption=["x"] * 6), recording, trial_events=("e0", "e2"))
    assert onsets(some) == [2, 8, 11, 17, 20, 26]


def test_by_order_with_a_check_on_names(tmp_path: Path, recording: Path) -> None:
    names = [name for _, name in EVENTS]
    assert source_of(tmp_path, trials(event=names), recording).num_segments() == 9
    # Only the events that the table names are trials.
    assert onsets(source_of(tmp_path, trials(event=["e1"] * 3), recording)) == [5, 14, 23]
    with pytest.raises(UserError, match=r"line 5: event 'e1', but event 4 of .* is 'e0' \(2 of 9 differ\)"):
        source_of(tmp_path, trials(event=[*names[:3], "e1", "e0", *names[5:]]), recording)


def test_a_window_that_cannot_be_cut_drops_its_row_only(tmp_path: Path, recording: Path) -> None:
    source = source_of(tmp_path, trials(onset=[2.0, 29.5, 5.0, "", 40.0, 5.0]), recording)
    assert onsets(source) == [2, 5]
    assert stimuli(source) == ["p0", "p2"]
    notes = " ".join(source.notes)
    assert "1 of 6 rows have no onset and are left out" in notes
    assert "3 of 5 segments dropped" in notes
    assert "1: their events lie outside the recorded samples" in notes
    assert "1: they begin at the same sample as another" in notes
    with pytest.raises(UserError, match=r"line 2: onset 'soon' is not a number"):
        source_of(tmp_path, trials(onset=["soon"]), recording)


def study(folder: Path) -> list[Path]:
    """Two subjects of two sessions, of which the first has two runs."""
    write_images(folder / "pics", [f"p{number}.png" for number in range(4)])
    names = [f"sub-{s}_ses-{e}_run-0{r}" for s in ("01", "x2") for e, r in (("a", 1), ("a", 2), ("b", 1))]
    raw = annotate(make_raw(12), regular_events(3))
    return [export(raw, folder / f"{name}_eeg.fif") for name in names]


def test_rows_belong_to_recordings_by_subject_session_and_run(tmp_path: Path) -> None:
    paths = study(tmp_path)
    keys = [(s, e, r) for s in ("sub-01", "x2") for e, r in (("a", "1"), ("a", "2"), ("b", "1"))]
    rows = trials(
        onset=[2.0 + n for n in range(len(keys))],
        subject=[key[0] for key in keys],
        session=[key[1] for key in keys],
        run=[key[2] for key in keys],
    )
    shuffled = [rows[place] for place in (3, 1, 5, 0, 2, 4)]
    dataset = ingest(source_of(tmp_path, shuffled, *paths), tmp_path / "out")
    assert dataset.index.onset_s.tolist() == [2, 3, 4, 5, 6, 7]
    assert dataset.index.subject.tolist() == [1, 1, 1, 2, 2, 2]
    assert dataset.index.session.tolist() == ["a", "a", "b"] * 2
    assert dataset.index.recording.tolist() == [path.name for path in paths]
    assert dataset.metadata.provenance["subject_labels"] == {"01": 1, "x2": 2}
    assert dataset.index.block.tolist() == [0, 1, 2, 0, 1, 2]

    with pytest.raises(UserError, match="the rows of subject sub-01, session a belong to 2 recordings"):
        source_of(tmp_path, [{k: v for k, v in row.items() if k != "run"} for row in rows], *paths)
    with pytest.raises(UserError, match="nothing says to which of 6 recordings a row"):
        source_of(tmp_path, [{"image": "p0.png", "class": "c0", "onset": 2.0}], *paths)
    odd = [*rows[:4], {**rows[4], "subject": "03"}, {**rows[5], "subject": "03"}]
    notes = " ".join(source_of(tmp_path, odd, *paths).notes)
    assert (
        "2 rows belong to no recording: 1 of subject 03, session a, run 2; 1 of subject 03, session b, run 1" in notes
    )
    assert "2 recordings have no row" in notes


def test_rows_belong_to_recordings_by_name_and_say_who_and_when(tmp_path: Path) -> None:
    write_images(tmp_path / "pics", [f"p{number}.png" for number in range(4)])
    raw = annotate(make_raw(12), regular_events(3))
    paths = [export(raw, tmp_path / f"{name}_raw.fif") for name in ("alice_1", "alice_2", "bob_1")]
    rows = trials(
        recording=["alice_1_raw", "alice_1_raw", "alice_2_raw.fif", "bob_1_raw", "bob_1_raw", "bob_1_raw"],
        onset=[2.0, 4.0, 2.0, 2.0, 4.0, 6.0],
        subject=["alice"] * 3 + ["bob"] * 3,
        session=["1", "1", "2", "1", "1", "1"],
        block=["warm-up", "main", "main", "warm-up", "main", "main"],
    )
    dataset = ingest(source_of(tmp_path, rows, *paths), tmp_path / "out")
    assert dataset.index.subject.tolist() == [1, 1, 1, 2, 2, 2]
    assert dataset.index.session.tolist() == ["1", "1", "2", "1", "1", "1"]
    assert dataset.index.block.tolist() == [0, 1, 2, 0, 1, 1]
    assert dataset.index.order.tolist() == [0, 0, 0, 0, 0, 1]
    rows[1]["subject"] = "bob"
    with pytest.raises(UserError, match=r"recording alice_1_raw\.fif has rows of subject 'alice' and 'bob'"):
        source_of(tmp_path, rows, *paths)


def test_epochs_that_were_dropped_leave_their_rows_out(tmp_path: Path, recording: Path) -> None:
    raw = mne.io.read_raw(recording, verbose="ERROR")
    events, names = mne.events_from_annotations(raw, verbose="ERROR")
    epochs = mne.Epochs(raw, events, names, tmin=0, tmax=1, baseline=None, preload=True, verbose="ERROR")
    epochs.drop([1, 4], verbose="ERROR").save(tmp_path / "a-epo.fif", verbose="ERROR")
    rows = trials(caption=[str(number) for number in range(9)])
    source = source_of(tmp_path, rows, tmp_path / "a-epo.fif")
    assert stimuli(source) == [f"p{n % 4}" for n in range(9) if n not in (1, 4)]
    assert any("2 of 9 epochs were dropped before the file was saved" in note for note in source.notes)
    with pytest.raises(UserError, match="can be joined by order only"):
        source_of(tmp_path, trials(onset=[1.0] * 9), tmp_path / "a-epo.fif", join="onset")


def test_options_that_contradict_each_other(tmp_path: Path, recording: Path) -> None:
    common: dict[str, Any] = {"recordings": (recording,), "images": tmp_path}
    with pytest.raises(UsageError, match=r"give either --events .* or --trials"):
        MneOptions(**common)
    with pytest.raises(UsageError, match="--join and --trial-events belong to a table of trials"):
        MneOptions(**common, events=recording, join="order")
    with pytest.raises(UserError, match="column 'subj' is not known; did you mean 'subject'"):
        source_of(tmp_path, trials(onset=[1.0], subj=["1"]), recording)


def test_a_million_rows_find_their_recordings_without_a_loop_over_rows(tmp_path: Path) -> None:
    num, num_files = 1_000_000, 40
    number = np.arange(num)
    with (tmp_path / "trials.csv").open("w") as file:
        file.write("subject,session,onset,image,class\n")
        file.writelines(
            f"{row % 10:02d},{row // 10 % 4},{row / 100},{row % 1600}.png,c{row % 1600}\n" for row in range(num)
        )
    files = [
        RecordingFile(path=Path(f"{n}.fif"), name=f"{n}.fif", subject=f"{n % 10:02d}", session=str(n // 10))
        for n in range(num_files)
    ]
    calls = _count_python_calls(lambda: _read_and_group(tmp_path / "trials.csv", files))
    assert calls < num / 10
    groups = _read_and_group(tmp_path / "trials.csv", files)
    for place, file in enumerate(files):
        np.testing.assert_array_equal(
            groups[file], number[(number % 10 == place % 10) & (number // 10 % 4 == place // 10)]
        )


def _read_and_group(path: Path, files: list[RecordingFile]) -> dict[RecordingFile, np.ndarray]:
    table = read_stimulus_table(path, ("image", "class"), ("subject", "session", "onset"))
    return rows_of_recordings(table, files, [])


def _count_python_calls(run: Any) -> int:
    """How many functions are entered: a loop over rows enters some for each row, whatever the machine."""
    import sys

    count = 0

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "c_call" or event == "call"

    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(None)
    return count
