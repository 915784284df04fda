"""New EEG becomes what ingest made of the same EEG, bit for bit, or it is refused."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import mne
import numpy as np
import pytest
from recording_files import write_codes

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.format.encoding import decode_eeg, encode_eeg
from neuroimagen.data_shards.new_eeg.conversion import converted, rounded
from neuroimagen.data_shards.new_eeg.description import InputDescription
from neuroimagen.data_shards.new_eeg.given import given_eeg, read_eeg
from neuroimagen.data_shards.sources.ingest import ingest
from neuroimagen.data_shards.sources.mne import MneOptions, MneSource
from neuroimagen.data_shards.writing.preprocessing import Preprocessing

ALL = Preprocessing(detrend=True, standardise=True, clamp=3.0)


def test_epochs_become_the_segments_that_ingest_stored(study: Callable) -> None:
    """Window, unit, reference, baseline, detrending, standardisation and clamp, each in its place."""
    made = study(ALL, tmin=0.1, tmax=0.6, baseline=(-0.2, -0.05), reference=("M1", "Oz"), picks=("Pz", "Cz", "Oz"))
    found = converted(given_eeg(made.epochs()), made.wanted)
    assert found.eeg.dtype == np.float32
    assert np.array_equal(found.eeg, made.stored)
    assert found.notes == ("2 channels are not used: Fz, M1",)
    # The same as an array in another unit, with channels in another order.
    epochs = made.epochs()
    order = [4, 2, 0, 3, 1]
    again = converted(
        given_eeg(
            epochs.get_data()[:, order] * 1e3,
            sfreq=200,
            channel_names=[epochs.ch_names[place].upper() for place in order],
            unit="mV",
            tmin=-0.5,
        ),
        made.wanted,
    )
    assert np.array_equal(again.eeg, made.stored)
    assert again.notes[1] == "channels are put into the run's order"


def test_average_reference_and_no_more(study: Callable) -> None:
    made = study(reference=("average",), tmax=0.5)
    assert np.array_equal(converted(given_eeg(made.epochs()), made.wanted).eeg, made.stored)
    exact = made.epochs(0.0, 0.495)
    assert np.array_equal(converted(given_eeg(exact), made.wanted).eeg, made.stored)


def test_epochs_of_another_rate_become_what_ingest_resampled(study: Callable, tmp_path: Path) -> None:
    """Only where the data set was itself cut from epochs of the same extent."""
    raw = study(tmax=0.5).raw
    events, codes = mne.events_from_annotations(raw, verbose="ERROR")
    plain = raw.copy().set_annotations(None)  # else the file repeats the events within each epoch
    epochs = mne.Epochs(plain, events, codes, tmin=-0.2, tmax=1.0, baseline=None, preload=True, verbose="ERROR")
    epochs.save(tmp_path / "a-epo.fif", verbose="ERROR")
    write_codes(tmp_path, ("e0", "e1", "e2"))
    options = MneOptions(
        recordings=(tmp_path / "a-epo.fif",),
        events=tmp_path / "events.csv",
        images=tmp_path / "pics",
        resample=100.0,
        tmax=0.5,
        baseline=(-0.1, 0.0),
    )
    dataset = ingest(MneSource(options), tmp_path / "data", workers=1)
    wanted = InputDescription.of(dataset.metadata)
    assert wanted.epochs is not None
    found = converted(read_eeg(tmp_path / "a-epo.fif"), wanted)
    assert np.array_equal(found.eeg, np.stack([dataset.eeg(row) for row in range(len(dataset))]))
    with pytest.raises(UserError, match="resampling depends on where epochs end"):
        converted(given_eeg(epochs.copy().crop(-0.2, 0.9)), wanted)


def test_what_needs_the_recording_is_refused_until_it_is_said_to_be_done(study: Callable) -> None:
    made = study(Preprocessing(standardise=True), band_hz=(1.0, 40.0), notch=(50.0,), tmax=0.5, baseline=(-0.2, 0.0))
    epochs = made.epochs()
    with pytest.raises(UserError, match=r"band-pass 1 to 40 Hz and notch at 50 Hz\).*preprocessed=\('filter',\)"):
        converted(given_eeg(epochs), made.wanted)
    with pytest.raises(UserError, match=r"pass 0 to 100 Hz, as MNE notes.* 1 to 40 Hz.*raw\.filter\(1, 40\)"):
        converted(given_eeg(epochs), made.wanted, preprocessed=("filter",))
    made.raw.filter(1.0, 40.0, verbose="ERROR").notch_filter([50.0], verbose="ERROR")
    found = converted(given_eeg(made.epochs()), made.wanted, preprocessed=("filter",))
    assert np.array_equal(found.eeg, made.stored)


def test_segments_that_are_as_stored_do_not_change(study: Callable) -> None:
    made = study(ALL, tmax=0.5)
    found = converted(given_eeg(made.stored), made.wanted, preprocessed=True)
    assert np.array_equal(found.eeg, made.stored)
    with pytest.raises(UserError, match="its numbers have no unit"):
        converted(given_eeg(made.stored, unit="V"), made.wanted, preprocessed=True)
    with pytest.raises(UserError, match=r"channel_names=.*The run takes Fz, Cz"):
        converted(given_eeg(made.stored), made.wanted)


def test_the_order_of_steps_is_kept(wanted: InputDescription) -> None:
    done = {"reference": ["average"], "standardise": True, "channel_mean": [0, 0, 0], "channel_std": [1, 1, 1]}
    wanted = dataclasses.replace(wanted, preprocessing=done)
    eeg = given_eeg(np.ones((1, 3, 50)), sfreq=100, channel_names=["Fz", "Cz", "Pz"])
    with pytest.raises(UserError, match="in the order reference, standardise, so reference must be done before"):
        converted(eeg, wanted, preprocessed="standardise")
    with pytest.raises(UserError, match="'detrend', which was not done to the data"):
        converted(eeg, wanted, preprocessed=["detrend"])
    with pytest.raises(UserError, match="there is no step 'filtering'; there are source, filter"):
        converted(eeg, wanted, preprocessed=["filtering"])


def test_what_mne_notes_of_epochs_is_heeded(study: Callable) -> None:
    made = study(tmax=0.5)
    with pytest.raises(UserError, match=r"a baseline \(-0\.2 to 0 s\) was subtracted.*baseline=None"):
        converted(given_eeg(made.epochs(baseline=(-0.2, 0))), made.wanted)
    projected = made.epochs().set_eeg_reference("average", projection=True, verbose="ERROR")
    with pytest.raises(UserError, match="carry projectors that are not applied"):
        converted(given_eeg(projected), made.wanted)


def test_what_a_source_did_is_not_guessed(wanted: InputDescription) -> None:
    eeg = given_eeg(np.ones((1, 3, 50)), sfreq=100, channel_names=["Fz", "Cz", "Pz"], unit="uV")
    whitened = dataclasses.replace(wanted, preprocessing={"steps": "whitened by session"})
    with pytest.raises(UserError, match=r"source: whitened by session\).*preprocessed=\('source',\)"):
        converted(eeg, whitened)
    assert converted(eeg, whitened, preprocessed=("source",)).eeg.shape == (1, 3, 50)
    with pytest.raises(UserError, match="file_standardised True"):
        converted(eeg, dataclasses.replace(wanted, preprocessing={"file_standardised": True}))


def test_numbers_that_are_none_are_named(wanted: InputDescription) -> None:
    eeg = np.ones((3, 3, 50))
    eeg[1, 2, 4] = np.nan
    with pytest.raises(UserError, match="segment 1 of the EEG holds NaN"):
        converted(given_eeg(eeg), wanted, preprocessed=True)


@pytest.mark.parametrize("largest", [0.0, 3e-7, 0.99999, 1.0, 32767.0, 40000.0, 65535.99])
def test_rounding_is_that_of_the_shards_and_only_once(largest: float) -> None:
    """Also where the largest value rounds up to a power of two, after which another scale would be chosen."""
    rng = np.random.default_rng(0)
    eeg = (rng.uniform(-1, 1, (4, 500)) ** 5).astype(np.float32)
    eeg = eeg / np.abs(eeg).max() * np.float32(largest)
    stored = decode_eeg(*encode_eeg(eeg))
    assert np.array_equal(rounded(eeg), stored)
    assert np.array_equal(rounded(stored), stored)
