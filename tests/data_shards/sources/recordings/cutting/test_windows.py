"""Which samples belong to a segment."""

from collections.abc import Callable
from pathlib import Path

import mne
import numpy as np
import pytest
from recording_files import annotate, export, make_raw, regular_events

from neuroimagen.data_shards.sources.mne import MneSource
from neuroimagen.data_shards.sources.recordings.cutting.windows import Window, plan_cuts
from neuroimagen.data_shards.sources.recordings.files.pieces import Piece
from neuroimagen.data_shards.sources.recordings.options import CutOptions

Cut = Callable[..., MneSource]


@pytest.mark.parametrize("sfreq", [100.0, 250.0, 512.0, 1000.0, 1024.0, 333.3])
def test_edges_are_those_of_mne_whatever_the_baseline(sfreq: float) -> None:
    raw = make_raw(10, sfreq, names=("Fz",))
    events = np.array([[round(4 * sfreq), 0, 1]])
    for tmin, tmax in ((0.1, 0.6), (0.05, 0.55), (-0.1, 0.9), (0.2, 0.8), (-0.5, -0.1), (0.0, 0.0125)):
        epochs = mne.Epochs(raw, events, tmin=tmin, tmax=tmax, baseline=None, preload=True, verbose="ERROR")
        first = round(epochs.times[0] * sfreq)
        for baseline in (None, (-0.3, 0.0), (-0.25, -0.05), (0.8, 1.0)):
            window = Window.of(CutOptions(images=Path(), tmin=tmin, tmax=tmax, baseline=baseline), sfreq)
            assert (window.first, window.num_samples) == (first, len(epochs.times) - 1)


def test_the_same_samples_with_and_without_a_baseline(tmp_path: Path, cut: Cut) -> None:
    raw = annotate(make_raw(40, 512.0), regular_events(9, first=3.0))
    path = export(raw, tmp_path / "a_raw.fif")
    for tmin, tmax, baseline in ((0.1, 0.6, (-0.2, 0.0)), (-0.1, 0.9, (-0.3, -0.1)), (0.0, 0.5, (0.8, 1.0))):
        plain = next(cut(path, tmin=tmin, tmax=tmax).segments()).eeg
        corrected = next(cut(path, tmin=tmin, tmax=tmax, baseline=baseline).segments()).eeg
        assert plain.shape == corrected.shape
        np.testing.assert_allclose(np.diff(plain), np.diff(corrected), atol=1e-3)
        first, last = round((3 + baseline[0]) * 512), round((3 + baseline[1]) * 512) + 1
        mean = raw.get_data(start=first, stop=last).mean(axis=1, keepdims=True) * 1e6
        np.testing.assert_allclose(plain - corrected, np.broadcast_to(mean, plain.shape), atol=1e-3)


def test_why_segments_are_dropped() -> None:
    raw = annotate(make_raw(10, 100.0, names=("Fz",)), [(7.2, "BAD"), (7.25, "badge")], duration=0.2)
    pieces = [Piece(0, 300), Piece(300, 500, 20.0), Piece(600, 1000, 20.0)]
    sample = np.array([-5, 20, 295, 300, 310, 480, 550, 700, 800, 800, 960, 1000, 200])
    options = CutOptions(images=Path(), tmin=-0.1, tmax=0.5)
    cuts = plan_cuts(sample, pieces, raw, options, events={"badge"})
    assert sample[cuts.place].tolist() == [20, 200, 310, 800]
    assert cuts.piece.tolist() == [0, 0, 1, 2]
    assert cuts.event.tolist() == [20, 200, 10, 200]
    assert cuts.onset_s.tolist() == pytest.approx([0.1, 1.9, 23.0, 27.9])
    assert cuts.dropped == {
        "they cross a pause": 3,
        "they run over the recording's ends": 1,
        "their events lie in a pause": 1,
        "their events lie outside the recorded samples": 2,
        "they lie in a stretch that is marked 'BAD'": 1,
        "they begin at the same sample as another": 1,
    }
