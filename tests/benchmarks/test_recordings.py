"""The benchmark of cutting recordings: its EDF files are what MNE reads, and a case has its figures."""

from pathlib import Path

import mne
import numpy as np
import pytest

from neuroimagen.benchmarks.recordings import SFREQ, measure, write_edf, write_recordings


def test_mne_reads_what_is_written(tmp_path: Path) -> None:
    write_edf(tmp_path / "a.edf", num_channels=3, sfreq=SFREQ, seconds=20, event="shown", every_s=4)
    raw = mne.io.read_raw_edf(tmp_path / "a.edf", verbose="ERROR")
    assert (len(raw.ch_names), raw.info["sfreq"], raw.n_times) == (3, SFREQ, 20 * SFREQ)
    assert np.std(raw.get_data()) == pytest.approx(2e-5, rel=0.02)
    assert raw.annotations.onset.tolist() == [0.25, 4.25, 8.25, 12.25, 16.25]
    assert set(raw.annotations.description) == {"shown"}


def test_a_case_has_its_segments_and_a_peak(tmp_path: Path) -> None:
    command = write_recordings(tmp_path, num_files=2, num_channels=2, seconds=100)
    figures = measure(command, tmp_path / "data")
    assert figures["segments"] == 2 * 10
    assert figures["peak_mb"] > 50  # Python and MNE alone
