"""What is held in memory while recordings are cut."""

from pathlib import Path

import numpy as np
import pytest
from recording_files import annotate, export, make_raw, regular_events, write_codes

from neuroimagen.data_shards.sources.mne import MneOptions, MneSource
from neuroimagen.data_shards.sources.recordings.cutting import processing


@pytest.mark.parametrize("resample", [None, 100.0, 400.0])
def test_a_large_piece_is_filtered_in_groups_of_channels(
    tmp_path: Path, resample: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_codes(tmp_path, ("e0", "e1", "e2"))
    path = export(annotate(make_raw(40), regular_events(9)), tmp_path / "a_raw.fif")
    options = MneOptions(
        recordings=(path,),
        events=tmp_path / "events.csv",
        images=tmp_path / "pics",
        band_hz=(1.0, 40.0),
        resample=resample,
        reference=("average",),
    )
    whole = [segment.eeg for segment in MneSource(options).segments()]
    sizes: list[int] = []
    filtered = processing._filtered

    def counted(data: np.ndarray, *rest: object) -> np.ndarray:
        sizes.append(data.nbytes)
        return filtered(data, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(processing, "_filtered", counted)
    monkeypatch.setattr(processing, "HELD_BYTES", 4 * 8 * 8000 * 3)  # three of four channels
    parts = [segment.eeg for segment in MneSource(options).segments()]
    assert sizes == [8 * 8000 * 3, 8 * 8000]
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_without_a_filter_segments_are_read_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_codes(tmp_path, ("e0", "e1", "e2"))
    path = export(annotate(make_raw(40), regular_events(9)), tmp_path / "a.edf")
    options = MneOptions(recordings=(path,), events=tmp_path / "events.csv", images=tmp_path / "pics")
    whole = [segment.eeg for segment in MneSource(options).segments()]
    monkeypatch.setattr(processing, "HELD_BYTES", 1000)
    for one, other in zip(whole, MneSource(options).segments(), strict=True):
        np.testing.assert_allclose(one, other.eeg, rtol=1e-6)


def test_segments_can_be_asked_for_again_and_by_split(tmp_path: Path) -> None:
    write_codes(tmp_path, ("e0", "e1", "e2"))
    paths = [export(annotate(make_raw(40, seed=n), regular_events(9)), tmp_path / f"{n}_raw.fif") for n in (1, 2)]
    source = MneSource(MneOptions(recordings=tuple(paths), events=tmp_path / "events.csv", images=tmp_path / "pics"))
    everything = list(source.segments())
    assert len(everything) == source.num_segments() == 18
    for split in ("train", "val", "test"):
        part = list(source.segments(split))
        expected = [segment for segment in everything if segment.split == split]
        assert [(p.recording, p.onset_s, p.order) for p in part] == [
            (e.recording, e.onset_s, e.order) for e in expected
        ]
        for one, other in zip(part, expected, strict=True):
            np.testing.assert_array_equal(one.eeg, other.eeg)
