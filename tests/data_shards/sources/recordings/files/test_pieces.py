"""Pauses: no segment crosses one, no filter rings over one, and events after one stay beside their EEG."""

from collections.abc import Callable
from pathlib import Path

import mne
import numpy as np
import pytest
from recording_files import annotate, export, make_raw, write_brainvision, write_edf

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.mne import MneSource

Cut = Callable[..., MneSource]
ONSETS = [2, 5, 8, 11, 14.7, 17, 20, 23, 26]
"""Seconds; the recording is paused at 15 s, so the segment of 14.7 s cannot be cut."""


def stepped() -> np.ndarray:
    """30 s at 200 Hz in µV, 300 µV higher after 15 s."""
    data = np.random.default_rng(0).standard_normal((3, 6000)) * 20
    data[:, 3000:] += 300
    return data


def assert_cut_at_the_pause(source: MneSource, **wanted: float) -> None:
    segments = list(source.segments())
    assert len(segments) == 8
    # A filter that runs over the step would leave a swing of tens of µV beside it.
    assert max(np.abs(np.diff(segment.eeg, axis=1)).max() for segment in segments) < 200
    assert [segment.onset_s for segment in segments] == pytest.approx([t for t in ONSETS if t != 14.7])
    assert any("paused or joined at 1 places" in note for note in source.notes)
    assert any("1 of 9 segments dropped (1: they cross a pause)" in note for note in source.notes)


def test_brainvision_new_segment(tmp_path: Path, cut: Cut) -> None:
    marks = [("Stimulus", f"S  {1 + number % 3}", int(time * 200) + 1) for number, time in enumerate(ONSETS)]
    marks = sorted([*marks, ("New Segment", "", 3001)], key=lambda mark: mark[2])
    path = write_brainvision(tmp_path / "a.vhdr", stepped(), ("Fz", "Cz", "Oz"), marks)
    assert_cut_at_the_pause(cut(path, events=tuple(f"Stimulus/S  {code}" for code in (1, 2, 3))))


def paused_raw(mark: str) -> mne.io.BaseRaw:
    raw = make_raw(names=("Fz", "Cz", "Oz"))
    raw._data[:] = stepped() * 1e-6
    return annotate(raw, [*((time, f"e{number % 3}") for number, time in enumerate(ONSETS)), (15.0, mark)])


@pytest.mark.parametrize(("ending", "mark"), [(".set", "boundary"), ("_raw.fif", "EDGE boundary")])
def test_eeglab_and_joined_fif(tmp_path: Path, cut: Cut, ending: str, mark: str) -> None:
    assert_cut_at_the_pause(cut(export(paused_raw(mark), tmp_path / f"a{ending}")))


def test_a_piece_is_filtered_and_resampled_by_itself(tmp_path: Path, cut: Cut) -> None:
    raw = paused_raw("EDGE boundary")
    source = cut(export(raw, tmp_path / "a_raw.fif"), band_hz=(1.0, 40.0), resample=100.0)
    alone = raw.copy().crop(15.0).load_data()
    events, _ = mne.events_from_annotations(alone, {"e0": 1, "e1": 2, "e2": 3}, verbose="ERROR")
    events[:, 0] -= alone.first_samp
    alone = mne.io.RawArray(alone.get_data(), alone.info, verbose="ERROR").filter(1.0, 40.0, verbose="ERROR")
    alone, events = alone.resample(100.0, events=events, verbose="ERROR")
    epochs = mne.Epochs(alone, events, tmin=0, tmax=1.0, baseline=None, preload=True, verbose="ERROR")
    found = np.stack([segment.eeg for segment in source.segments()][4:])
    np.testing.assert_allclose(found, epochs.get_data()[:, :, :-1] * 1e6, rtol=1e-4, atol=1e-3)


def test_stretches_that_were_not_acquired(tmp_path: Path, cut: Cut) -> None:
    raw = make_raw()
    events = [(2 + 3.0 * number, f"e{number % 3}") for number in range(9)]
    raw.set_annotations(
        mne.Annotations(
            [time for time, _ in events] + [10.0], [0.0] * 9 + [2.5], [t for _, t in events] + ["BAD_ACQ_SKIP"]
        )
    )
    source = cut(export(raw, tmp_path / "a_raw.fif"))
    # 11 s lies in the stretch, the segment of 8 s ends before it.
    assert [segment.onset_s for segment in source.segments()] == pytest.approx([2, 5, 8, 14, 17, 20, 23, 26])
    assert any("1 of 9 segments dropped (1: their events lie in a pause)" in note for note in source.notes)


def edf_with_pause(path: Path, record_onsets: list[float] | None = None) -> Path:
    """12 s, a pause of 20 s, then 18 s; a step stands 0.25 s after each event."""
    data = np.random.default_rng(0).standard_normal(6000) * 5
    times = [2, 5, 8, 34, 37, 40, 43]
    for time in times:
        at = int((time if time < 12 else time - 20) * 200)
        data[at + 50 : at + 60] += 300
    onsets = record_onsets or [second if second < 12 else second + 20 for second in range(30)]
    events = [(float(time), f"e{number % 3}") for number, time in enumerate(times)]
    return write_edf(path, [("Fz", "uV", data, 200), ("Oz", "uV", data, 200)], events, record_onsets=onsets)


def test_events_of_a_discontinuous_edf_file_stand_beside_their_eeg(tmp_path: Path, cut: Cut) -> None:
    source = cut(edf_with_pause(tmp_path / "a.edf"))
    segments = list(source.segments())
    assert [int(np.argmax(segment.eeg[0] > 150)) for segment in segments] == [50] * 7
    assert [segment.onset_s for segment in segments] == pytest.approx([2, 5, 8, 34, 37, 40, 43])
    assert any("a discontinuous file (EDF+D) with 1 pauses" in note for note in source.notes)


def test_an_edf_file_that_says_discontinuous_and_has_no_pause(tmp_path: Path, cut: Cut) -> None:
    data = np.random.default_rng(0).standard_normal(6000) * 5
    events = [(2.0 + 3 * number, f"e{number % 3}") for number in range(9)]
    path = write_edf(tmp_path / "a.edf", [("Fz", "uV", data, 200)], events, record_onsets=list(range(30)))
    source = cut(path)
    assert source.num_segments() == 9
    assert not any("pause" in note for note in source.notes)


def test_times_that_run_backwards_are_refused(tmp_path: Path, cut: Cut) -> None:
    path = edf_with_pause(tmp_path / "a.edf", [*range(15), *range(10, 25)])
    with pytest.raises(UserError, match=r"data record 15 begins before record 14 ends.*EDF\+C"):
        cut(path)
