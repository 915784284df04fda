"""Events of one recording: annotations, triggers and events.tsv together, and how the table names them."""

from collections.abc import Callable
from pathlib import Path

import mne
import numpy as np
import pytest
from recording_files import annotate, export, make_raw, regular_events, write_brainvision, write_codes

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.mne import MneOptions, MneSource

Cut = Callable[..., MneSource]


def with_triggers(events: list[tuple[float, int]], marks: list[tuple[float, str]], path: Path) -> Path:
    raw = make_raw(names=("Fz", "Cz", "Oz", "STI 014"), types=("eeg",) * 3 + ("stim",))
    raw._data[3] = 0
    for time, code in events:
        raw._data[3, round(time * 200) : round(time * 200) + 20] = code
    return export(annotate(raw, marks), path)


def onsets(source: MneSource) -> list[float]:
    return [round(segment.onset_s, 6) for segment in source.segments()]


@pytest.mark.parametrize("form", ["{}", "{}.0", " {}", "0{}", "{} ", "+{}"])
def test_numbers_as_spreadsheets_write_them(tmp_path: Path, cut: Cut, form: str) -> None:
    path = with_triggers([(2 + 3 * n, 1 + n % 3) for n in range(9)], [(1.0, "start")], tmp_path / "a_raw.fif")
    source = cut(path, events=tuple(form.format(code) for code in (1, 2, 3)))
    assert source.num_segments() == 9
    assert [segment.stimulus for segment in source.segments()] == ["p0", "p1", "p2"] * 3


def test_two_rows_of_one_event_are_refused(tmp_path: Path, cut: Cut) -> None:
    path = with_triggers([(2, 1)], [(1.0, "start")], tmp_path / "a_raw.fif")
    with pytest.raises(UserError, match=r"an event has two rows: lines 2 and 4 \('1' and '1\.0' are the same event\)"):
        cut(path, events=("1", "2", "1.0"))


def test_stimuli_whose_names_begin_like_marks_of_bad_data(tmp_path: Path, cut: Cut) -> None:
    names = ("badger", "Badminton racket", "edge_01", "dog")
    raw = annotate(make_raw(60), [(3.0 + 3 * n, names[n % 4]) for n in range(16)], duration=1.0)
    assert cut(export(raw, tmp_path / "a_raw.fif"), events=names).num_segments() == 16
    # What the table does not name is a mark, as for MNE, and the note has its text.
    source = cut(tmp_path / "a_raw.fif", events=("badger", "dog"), tmin=-2.5, tmax=1.0)
    assert source.num_segments() == 4
    assert any("4: they lie in a stretch that is marked 'edge_01'" in note for note in source.notes)


def test_stretches_marked_bad_drop_their_segments(tmp_path: Path, cut: Cut) -> None:
    raw = make_raw()
    marks = regular_events(9)
    raw.set_annotations(
        mne.Annotations(
            [t for t, _ in marks] + [7.5, 20.0, 23.5],
            [0.0] * 9 + [1.0, 0.0, 0.0],
            [t for _, t in marks] + ["BAD blink"] * 3,
        )
    )
    path = export(raw, tmp_path / "a_raw.fif")
    events, names = mne.events_from_annotations(raw, {"e0": 1, "e1": 2, "e2": 3}, verbose="ERROR")
    epochs = mne.Epochs(raw, events, names, tmin=0, tmax=1, baseline=None, preload=True, verbose="ERROR")
    source = cut(path)
    assert onsets(source) == (epochs.events[:, 0] / 200).tolist()
    assert any("they lie in a stretch that is marked 'BAD blink'" in note for note in source.notes)


def test_triggers_and_annotations_are_both_events(tmp_path: Path, cut: Cut) -> None:
    marks = [(3.0, "rest"), (9.0, "rest")]
    path = with_triggers([(2, 1), (5, 2), (8, 1)], marks, tmp_path / "a_raw.fif")
    source = cut(path, events=("1", "2", "rest"))
    assert onsets(source) == [2, 3, 5, 8, 9]
    assert cut(path, events=("1", "2", "rest"), events_from="triggers").num_segments() == 3
    assert cut(path, events=("1", "2", "rest"), events_from="annotations").num_segments() == 2


def test_an_event_that_stands_in_both_is_taken_once(tmp_path: Path, cut: Cut) -> None:
    times = [(2.0, 1), (5.0, 2), (8.0, 1)]
    same = [(time + 0.004, str(code)) for time, code in times]  # one sample is 5 ms
    source = cut(with_triggers(times, same, tmp_path / "a_raw.fif"), events=("1", "2"))
    assert onsets(source) == [2, 5, 8]
    assert any("3 events stand in STI 014 and annotations at the same sample" in note for note in source.notes)
    late = [(time + 0.2, str(code)) for time, code in times]
    with pytest.raises(
        UserError, match=r"have event '[12]', and only 0 of them stand at the same sample.*--events-from"
    ):
        cut(with_triggers(times, late, tmp_path / "b_raw.fif"), events=("1", "2"))
    some = [same[0], late[1], same[2], (11.0, "1")]
    with pytest.raises(UserError, match=r"have event '2', and only 0 of them"):
        cut(with_triggers(times, some, tmp_path / "c_raw.fif"), events=("1", "2"))
    # One origin may have more of them than the other.
    assert onsets(cut(tmp_path / "c_raw.fif", events=("1",))) == [2, 8, 11]


def test_blanks_within_a_marker_do_not_count(tmp_path: Path, cut: Cut) -> None:
    marks = [("Stimulus", f"S  {1 + n % 3}", 401 + 600 * n) for n in range(9)]
    data = np.random.default_rng(0).standard_normal((2, 6000)) * 20
    path = write_brainvision(tmp_path / "a.vhdr", data, ("Fz", "Oz"), marks)
    assert cut(path, events=("Stimulus/S 1", "Stimulus/S  2", "Stimulus/S   3")).num_segments() == 9
    with pytest.raises(UserError, match=r"it has annotations: 'Stimulus/S 1' × 3"):
        cut(path, events=("S1", "S2"))


def test_a_recording_without_the_events_is_left_out_if_others_have_them(tmp_path: Path, cut: Cut) -> None:
    first = export(annotate(make_raw(), regular_events(9)), tmp_path / "a_raw.fif")
    rest = export(annotate(make_raw(), [(1.0, "rest")]), tmp_path / "b_raw.fif")
    source = cut(first, rest)
    assert source.num_segments() == 9
    assert any(
        "1 of 2 recordings have none of the table's events and are left out: b_raw.fif" in n for n in source.notes
    )
    with pytest.raises(UserError, match="none of the table's events"):
        cut(rest)


def test_a_truncated_recording_says_what_is_missing(tmp_path: Path, cut: Cut) -> None:
    marks = [("Stimulus", f"S  {1 + n % 3}", 401 + 600 * n) for n in range(9)]
    data = np.random.default_rng(0).standard_normal((3, 6000)) * 20
    path = write_brainvision(tmp_path / "a.vhdr", data, ("Fz", "Cz", "Oz"), marks)
    whole = path.with_suffix(".eeg").read_bytes()
    path.with_suffix(".eeg").write_bytes(whole[: len(whole) // 2])
    source = cut(path, events=tuple(f"Stimulus/S  {code}" for code in (1, 2, 3)))
    assert onsets(source) == [2, 5, 8, 11, 14]
    assert any("MNE says: Omitted 4 annotation(s) that were outside data range" in note for note in source.notes)
    longer = cut(path, events=tuple(f"Stimulus/S  {code}" for code in (1, 2, 3)), tmax=1.5)
    assert any("1 of 5 segments dropped (1: they run over the recording's ends)" in note for note in longer.notes)


def test_epochs_by_the_number_of_their_event(tmp_path: Path) -> None:
    raw = make_raw()
    events = np.array([[400 * n + 300, 0, 1 + n % 4] for n in range(12)])
    epochs = mne.Epochs(
        raw, events, {"cat": 1, "dog": 2, "3": 3, "4": 4}, tmin=0, tmax=1, baseline=None, verbose="ERROR"
    )
    epochs.save(tmp_path / "a-epo.fif", verbose="ERROR")
    write_codes(tmp_path, ("cat", "2", "3"))
    options = MneOptions(
        recordings=(tmp_path / "a-epo.fif",), events=tmp_path / "events.csv", images=tmp_path / "pics", tmax=0.9
    )
    source = MneSource(options)
    assert [segment.stimulus for segment in source.segments()] == ["p0", "p1", "p2"] * 3
    assert any("epochs of 3 events are not in the table: '4' × 3" in note for note in source.notes)
    assert onsets(source)[:3] == [1.5, 3.5, 5.5]
    with pytest.raises(UserError, match=r"holds epochs from 0 to 1.005 s; the window 0 to 1.5 s is not inside"):
        MneSource(MneOptions(recordings=options.recordings, events=options.events, images=options.images, tmax=1.5))
    with pytest.raises(UserError, match="holds epochs, which are too short to be filtered"):
        MneSource(
            MneOptions(recordings=options.recordings, events=options.events, images=options.images, band_hz=(1, 40))
        )
