"""What a data set made of recordings says of itself."""

from collections.abc import Callable
from pathlib import Path

import pytest
from recording_files import annotate, export, make_raw, regular_events

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.verify import verify
from neuroimagen.data_shards.sources.ingest import ingest
from neuroimagen.data_shards.sources.mne import MneSource

Cut = Callable[..., MneSource]


def test_steps_and_facts_are_kept(tmp_path: Path, cut: Cut) -> None:
    raw = annotate(make_raw(40), regular_events(9)).filter(0.5, 60, verbose="ERROR")
    path = export(raw, tmp_path / "a_raw.fif")
    source = cut(path, band_hz=(1.0, 40.0), notch=(50.0,), reference=("average",), bad_channels=("Pz",), unit="V")
    dataset = ingest(source, tmp_path / "out")
    assert list(verify(tmp_path / "out")) == []
    steps = dataset.metadata.preprocessing
    assert steps["reference"] == ["average"]
    assert steps["notch_hz"] == [50.0]
    assert steps["left_out_channels"] == ["Pz"]
    assert steps["unit"] == "microvolt"
    assert steps["unit_of_the_files"] == "V"
    assert any("--unit V changes nothing" in note for note in source.notes)
    facts = dataset.metadata.provenance["recordings"]["a_raw.fif"]
    assert (facts["highpass_hz"], facts["lowpass_hz"]) == (0.5, 60.0)
    assert facts["is_referenced"] is False
    assert facts["left_out"] == {"Pz": "--bad-channels"}
    assert facts["dropped"] == {}
    assert dataset.metadata.provenance["files"]["a_raw.fif"]["bytes"] == path.stat().st_size
    text = (tmp_path / "out" / "dataset.json").read_text(encoding="utf-8")
    assert str(tmp_path) not in text


def test_the_same_bytes_again(tmp_path: Path, cut: Cut) -> None:
    path = export(annotate(make_raw(40), regular_events(9)), tmp_path / "a.edf")
    for name in ("first", "second"):
        ingest(cut(path, band_hz=(1.0, 40.0), resample=100.0), tmp_path / name)
    files = [file.relative_to(tmp_path / "first") for file in sorted((tmp_path / "first").rglob("*")) if file.is_file()]
    for file in files:
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes(), file


def test_segments_that_share_samples_are_counted(tmp_path: Path, cut: Cut) -> None:
    path = export(annotate(make_raw(40), regular_events(9, step=0.5)), tmp_path / "a_raw.fif")
    assert any("8 of 9 segments share samples with the one after them" in note for note in cut(path, tmax=0.6).notes)
    assert not any("share samples" in note for note in cut(path, tmax=0.5).notes)


def test_warnings_while_filtering_become_notes(tmp_path: Path, cut: Cut) -> None:
    source = cut(export(annotate(make_raw(30), regular_events(9)), tmp_path / "a_raw.fif"), band_hz=(0.01, 40.0))
    before = len(source.notes)
    for _ in range(2):
        list(source.segments())
    (added,) = source.notes[before:]
    assert "MNE says: filter_length" in added


def test_filters_that_a_recording_cannot_have(tmp_path: Path, cut: Cut) -> None:
    path = export(annotate(make_raw(30), regular_events(9)), tmp_path / "a_raw.fif")
    with pytest.raises(UserError, match="--band up to 100 Hz needs more than the 200 Hz"):
        cut(path, band_hz=(1.0, 100.0))
    with pytest.raises(UserError, match="--notch 150 Hz needs more than the 200 Hz"):
        cut(path, notch=(50.0, 150.0))
    with pytest.raises(UserError, match="every segment was dropped"):
        cut(path, tmax=100.0)
