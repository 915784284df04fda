"""The window is cut by time, and rates are changed only where the data set's own epochs were."""

import dataclasses
from typing import Any

import mne
import numpy as np
import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.new_eeg.cutting import at_rate, cut
from neuroimagen.data_shards.new_eeg.description import InputDescription, Step
from neuroimagen.data_shards.new_eeg.given import GivenEEG, given_eeg


def _given(num_samples: int, **known: Any) -> GivenEEG:
    """Segment s, channel c holds 1000 s + 100 c + its sample."""
    eeg = np.arange(2)[:, None, None] * 1000 + np.arange(3)[:, None] * 100 + np.arange(num_samples)
    return given_eeg(eeg, **known)


def test_the_window_is_cut_by_time(wanted: InputDescription) -> None:
    wanted = dataclasses.replace(wanted, first_sample_s=0.02)
    found = cut(_given(60, sfreq=100, tmin=-0.01), wanted, [], [2, 0, 1], 10.0)
    assert len(found) == 2
    assert found[1][:, 0].tolist() == [12030.0, 10030.0, 11030.0]
    assert found[1].shape == (3, 50)
    # Without a time, segments are the window, and nothing else fits.
    assert cut(_given(50, sfreq=100), wanted, [], [0, 1, 2], 1.0)[0][0].tolist() == list(range(50))
    with pytest.raises(UserError, match=r"60 samples; .* trained on 50 that begin at 0\.02 s: say when .*tmin"):
        cut(_given(60, sfreq=100), wanted, [], [0, 1, 2], 1.0)
    with pytest.raises(UserError, match=r"lasts from 0\.03 to 0\.63 s .* needs 0\.02 to 0\.52 s\. Cut it longer"):
        cut(_given(60, sfreq=100, tmin=0.03), wanted, [], [0, 1, 2], 1.0)
    unknown = dataclasses.replace(wanted, first_sample_s=None)
    with pytest.raises(UserError, match=r"60 samples; .* trained on 50: cut it to the same window"):
        cut(_given(60, sfreq=100, tmin=0.0), unknown, [], [0, 1, 2], 1.0)


def test_a_baseline_outside_of_the_window(wanted: InputDescription) -> None:
    baseline = [Step(name="baseline", words="", value=(-0.1, -0.05))]
    found = cut(_given(60, sfreq=100, tmin=-0.1), wanted, baseline, [0, 1, 2], 1.0)
    assert found[0][0].tolist() == [sample - 2.5 for sample in range(10, 60)]  # both ends of it belong to a baseline
    with pytest.raises(UserError, match="with its baseline; one that is subtracted already is named"):
        cut(_given(50, sfreq=100), wanted, baseline, [0, 1, 2], 1.0)


def test_a_reference_that_is_not_among_the_channels(wanted: InputDescription) -> None:
    steps = [Step(name="reference", words="", value=["Pz", "M1"])]
    with pytest.raises(UserError, match="referenced to Pz, M1, and the EEG has no channel 'M1'"):
        cut(_given(50, sfreq=100, channel_names=["Fz", "Cz", "Pz"]), wanted, steps, [0, 1, 2], 1.0)
    found = cut(_given(50, sfreq=100, channel_names=["Fz", "m1", "Pz"]), wanted, steps, [0, 1, 2], 1.0)
    assert found[0][:, 0].tolist() == [-150.0, -50.0, 50.0]


def test_another_rate_is_refused(wanted: InputDescription) -> None:
    assert at_rate(_given(50, sfreq=100.00001), wanted, as_stored=False).eeg.shape[2] == 50
    with pytest.raises(UserError, match=r"has 200 Hz, the run was trained on 100 Hz.*raw\.resample\(100\)"):
        at_rate(_given(100, sfreq=200), wanted, as_stored=False)
    with pytest.raises(UserError, match="say the sampling rate"):
        at_rate(_given(50), wanted, as_stored=False)


def test_epochs_are_resampled_as_the_data_sets_own_were(wanted: InputDescription) -> None:
    epochs = {"sfreq": 200.0, "first_sample_s": -0.2, "num_samples": 160}
    wanted = dataclasses.replace(wanted, epochs=epochs)
    rng = np.random.default_rng(0)
    data = rng.standard_normal((2, 3, 160))
    info = mne.create_info(["Fz", "Cz", "Pz"], 200.0, "eeg")
    made = mne.EpochsArray(data, info, tmin=-0.2, verbose="ERROR")
    found = at_rate(given_eeg(made), wanted, as_stored=False)
    assert np.array_equal(found.eeg, made.copy().resample(100.0, verbose="ERROR").get_data())
    assert (found.sfreq, found.tmin) == (100.0, -0.2)
    with pytest.raises(UserError, match=r"resampled from 160 samples at 200 Hz that begin at -0\.2 s"):
        at_rate(given_eeg(made.copy().crop(-0.2, 0.5)), wanted, as_stored=False)
