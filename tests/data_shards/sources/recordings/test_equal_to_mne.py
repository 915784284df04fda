"""Segments equal MNE's own epochs, to the rounding of float16, for each format and each step."""

from pathlib import Path
from typing import Any

import mne
import mne_bids
import numpy as np
import pytest
from recording_files import annotate, export, make_raw, regular_events, write_codes

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.sources.bids import BidsOptions, BidsSource
from neuroimagen.data_shards.sources.ingest import ingest
from neuroimagen.data_shards.sources.mne import MneOptions, MneSource
from neuroimagen.data_shards.sources.recordings.cutting import processing

STEPS: dict[str, dict[str, Any]] = {
    "as recorded": {},
    "filter": {"band_hz": (1.0, 40.0), "notch": (50.0,)},
    "resampling": {"resample": 125.0},
    "baseline": {"tmin": 0.1, "tmax": 0.6, "baseline": (-0.2, -0.05)},
    "average": {"reference": ("average",)},
    "reference": {"reference": ("Fz", "Oz")},
    "all": {
        "band_hz": (0.5, 30.0),
        "resample": 100.0,
        "baseline": (-0.3, 0.0),
        "reference": ("average",),
        "tmin": -0.1,
        "tmax": 0.9,
    },
}
ENDINGS = (".fif", ".vhdr", ".edf", ".bdf", ".set")


def recording() -> mne.io.BaseRaw:
    return annotate(make_raw(seconds=40), regular_events(9, first=3.0))


def epochs_of_mne(raw: mne.io.BaseRaw, steps: dict[str, Any]) -> np.ndarray:
    """What a user of MNE would write: filter, resample, reference, epochs; µV, without the last sample."""
    raw = raw.copy().load_data(verbose="ERROR")
    texts = sorted({str(text) for text in raw.annotations.description if str(text)[-2:] in ("e0", "e1", "e2")})
    names = {text: number for number, text in enumerate(texts, start=1)}
    events, _ = mne.events_from_annotations(raw, event_id=names, verbose="ERROR")
    if "band_hz" in steps:
        raw.filter(*steps["band_hz"], verbose="ERROR")
    if "notch" in steps:
        raw.notch_filter(steps["notch"], verbose="ERROR")
    if "resample" in steps:
        raw, events = raw.resample(steps["resample"], events=events, verbose="ERROR")
    if "reference" in steps:
        channels = "average" if steps["reference"] == ("average",) else list(steps["reference"])
        raw.set_eeg_reference(channels, verbose="ERROR")
    tmin, tmax = steps.get("tmin", 0.0), steps.get("tmax", 1.0)
    baseline = steps.get("baseline")
    start = min(tmin, baseline[0]) if baseline else tmin
    epochs = mne.Epochs(raw, events, tmin=start, tmax=tmax, baseline=baseline, preload=True, verbose="ERROR")
    sfreq = raw.info["sfreq"]
    first = round(tmin * sfreq) - round(start * sfreq)
    return epochs.get_data()[:, :, first:-1] * 1e6


def assert_equal_to_float16(dataset: Dataset, expected: np.ndarray) -> None:
    assert len(dataset) == len(expected)
    for row, segment in enumerate(expected):
        stored = dataset.eeg(row)
        assert stored.shape == segment.shape
        largest = np.abs(segment).max()
        np.testing.assert_allclose(stored, segment, rtol=2**-10, atol=largest * 2**-15)


def options_for(path: Path, folder: Path, steps: dict[str, Any]) -> MneOptions:
    return MneOptions(recordings=(path,), events=folder / "events.csv", images=folder / "pics", **steps)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_every_format_and_step(tmp_path: Path, ending: str, steps: dict[str, Any]) -> None:
    path = export(recording(), tmp_path / f"a_raw{ending}")
    comment = "Comment/" if ending == ".vhdr" else ""  # how pybv writes the text of an annotation
    write_codes(tmp_path, [f"{comment}e{number}" for number in range(3)])
    dataset = ingest(MneSource(options_for(path, tmp_path, steps)), tmp_path / "out")
    assert dataset.metadata.channel_names == ("Fz", "Cz", "Pz", "Oz")
    assert_equal_to_float16(dataset, epochs_of_mne(mne.io.read_raw(path, verbose="ERROR"), steps))


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_bids(tmp_path: Path, steps: dict[str, Any]) -> None:
    root = tmp_path / "study"
    for subject in ("01", "02"):
        where = mne_bids.BIDSPath(subject=subject, task="see", datatype="eeg", root=root)
        raw = annotate(make_raw(seconds=40, seed=int(subject)), regular_events(9, first=3.0))
        raw.info["line_freq"] = 50
        mne_bids.write_raw_bids(raw, where, allow_preload=True, format="BrainVision", verbose="ERROR")
    write_codes(tmp_path, ("e0", "e1", "e2"))
    source = BidsSource(BidsOptions(root=root, events=tmp_path / "events.csv", images=tmp_path / "pics", **steps))
    dataset = ingest(source, tmp_path / "out")
    paths = [mne_bids.BIDSPath(subject=each, task="see", datatype="eeg", root=root) for each in ("01", "02")]
    raws = [mne_bids.read_raw_bids(path, verbose="ERROR") for path in paths]
    assert_equal_to_float16(dataset, np.concatenate([epochs_of_mne(raw, steps) for raw in raws]))
    assert dataset.index.subject.tolist() == [1] * 9 + [2] * 9


@pytest.mark.parametrize("steps", [STEPS["as recorded"], STEPS["filter"], STEPS["all"]], ids=["plain", "filter", "all"])
def test_a_piece_that_is_too_large_to_be_held_gives_the_same(
    tmp_path: Path, steps: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = export(recording(), tmp_path / "a.edf")
    write_codes(tmp_path, ("e0", "e1", "e2"))
    monkeypatch.setattr(processing, "HELD_BYTES", 300_000)  # one channel of the filtered piece at a time
    dataset = ingest(MneSource(options_for(path, tmp_path, steps)), tmp_path / "out")
    assert_equal_to_float16(dataset, epochs_of_mne(mne.io.read_raw(path, verbose="ERROR"), steps))


def test_a_recording_that_does_not_begin_at_sample_0(tmp_path: Path) -> None:
    raw = recording().crop(2.0)
    path = export(raw, tmp_path / "a_raw.fif")
    write_codes(tmp_path, ("e0", "e1", "e2"))
    for number, steps in enumerate((STEPS["as recorded"], STEPS["resampling"])):
        dataset = ingest(MneSource(options_for(path, tmp_path, steps)), tmp_path / f"out{number}")
        assert_equal_to_float16(dataset, epochs_of_mne(mne.io.read_raw(path, verbose="ERROR"), steps))
        np.testing.assert_allclose(dataset.index.onset_s, 1.0 + 3.0 * np.arange(9), atol=1e-9)


def test_interpolated_channels_and_projectors(tmp_path: Path) -> None:
    names = ("Fz", "Cz", "Pz", "Oz", "C3", "C4", "F3", "F4")
    raw = annotate(make_raw(seconds=40, names=names), regular_events(9, first=3.0))
    raw.set_montage("standard_1020", verbose="ERROR")
    raw.info["bads"] = ["Cz"]
    raw.set_eeg_reference("average", projection=True, verbose="ERROR")
    path = export(raw, tmp_path / "a_raw.fif")
    write_codes(tmp_path, ("e0", "e1", "e2"))
    steps: dict[str, Any] = {"interpolate_bads": True, "apply_projectors": True}
    dataset = ingest(MneSource(options_for(path, tmp_path, steps)), tmp_path / "out")
    expected = mne.io.read_raw(path, preload=True, verbose="ERROR").apply_proj().interpolate_bads(verbose="ERROR")
    assert dataset.metadata.channel_names == names
    assert_equal_to_float16(dataset, epochs_of_mne(expected, {}))
    # Without the options the channel is left out, and the projector is not applied.
    plain = ingest(MneSource(options_for(path, tmp_path, {})), tmp_path / "plain")
    assert "Cz" not in (plain.metadata.channel_names or ())
    good = raw.copy().del_proj().pick([name for name in names if name != "Cz"])
    assert_equal_to_float16(plain, epochs_of_mne(good, {}))


@pytest.mark.parametrize("ending", ["-epo.fif", ".set"])
def test_epochs_files(tmp_path: Path, ending: str) -> None:
    raw = recording()
    events, names = mne.events_from_annotations(raw, verbose="ERROR")
    plain = raw.copy().set_annotations(None)  # else the file repeats the events within each epoch
    epochs = mne.Epochs(plain, events, names, tmin=-0.2, tmax=1.0, baseline=None, preload=True, verbose="ERROR")
    path = tmp_path / f"a{ending}"
    if ending == ".set":
        epochs.export(path, verbose="ERROR")
    else:
        epochs.save(path, verbose="ERROR")
    write_codes(tmp_path, ("e0", "e1", "e2"))
    for number, name in enumerate(("as recorded", "baseline", "average")):
        steps = STEPS[name]
        dataset = ingest(MneSource(options_for(path, tmp_path, steps)), tmp_path / f"out{number}")
        assert_equal_to_float16(dataset, epochs_of_mne(raw, steps))
