"""Raw recordings are cut and whitened as the public preprocessing does it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from things_files import TARGET, USUAL_CHANNELS, whitened_by_the_usual_code, write_raw

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.things import raw
from neuroimagen.data_shards.sources.things.raw import RawForm


def rewritten(root: Path, name: str = "sub-01/ses-01/raw_eeg_training.npy", **changes: Any) -> Path:
    """The file with other content; a value may be a function of the one before."""
    path = root / name
    content = np.load(path, allow_pickle=True).item()
    path.unlink()  # it may be mapped
    np.save(path, {**content, **{k: v(content[k]) if callable(v) else v for k, v in changes.items()}})
    return path


def test_raw_becomes_whitened_as_by_the_usual_code(tmp_path: Path) -> None:
    write_raw(tmp_path, (1,))
    form = RawForm(tmp_path, whitening="session")
    for half, (eeg, session) in whitened_by_the_usual_code(tmp_path, 1).items():
        opened = form.open(1, half)
        assert opened.channel_names == tuple(USUAL_CHANNELS)
        assert (opened.num_images, opened.num_samples) == (len(eeg), 250)
        assert opened.repetitions.tolist() == [eeg.shape[1]] * len(eeg)
        np.testing.assert_array_equal(opened.sessions, (session + 1).astype(str).reshape(-1))
        for image in range(len(eeg)):
            trials = opened.trials(image)
            found = np.stack([trial.eeg for trial in trials])
            np.testing.assert_allclose(found, eeg[image], rtol=1e-6, atol=1e-6)
            assert [trial.session for trial in trials] == (session[image] + 1).astype(str).tolist()


def test_the_number_of_epochs_at_once_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_raw(tmp_path, (1,))
    whole = RawForm(tmp_path, whitening="session").open(1, "test").trials(2)
    monkeypatch.setattr(raw, "_EPOCHS_AT_ONCE", 3)
    pieces = RawForm(tmp_path, whitening="session").open(1, "test").trials(2)
    for one, other in zip(whole, pieces, strict=True):
        np.testing.assert_array_equal(one.eeg, other.eeg)


def test_without_whitening_the_values_are_microvolts_from_the_recording(tmp_path: Path) -> None:
    write_raw(tmp_path, (1,))
    rewritten(tmp_path, sfreq=250)  # then nothing is resampled, and an epoch is a piece of the recording
    for name in ("ses-01/raw_eeg_test", *(f"ses-{n:02d}/raw_eeg_{w}" for n in (2, 3, 4) for w in ("training", "test"))):
        rewritten(tmp_path, f"sub-01/{name}.npy", sfreq=250)
    content = np.load(tmp_path / "sub-01" / "ses-02" / "raw_eeg_training.npy", allow_pickle=True).item()
    form = RawForm(tmp_path, whitening="none")
    opened = form.open(1, "train")
    trial = next(trial for trial in opened.trials(1) if trial.session == "2")
    assert trial.recording == "sub-01/ses-02/raw_eeg_training"
    onset = round(trial.onset_s * 250)
    assert content["raw_eeg_data"][5, onset] == 2
    assert trial.order == np.flatnonzero(np.isin(content["raw_eeg_data"][5], range(1, 13))).tolist().index(onset)
    picks = [content["ch_names"].index(name) for name in USUAL_CHANNELS]
    piece = content["raw_eeg_data"][picks, onset - 50 : onset + 251] * 1e6
    expected = (piece - piece[:, :51].mean(axis=1, keepdims=True))[:, -250:]
    np.testing.assert_allclose(trial.eeg, expected, rtol=1e-5, atol=1e-4)


def test_targets_and_trials_at_the_ends_are_counted(tmp_path: Path) -> None:
    write_raw(tmp_path, (1,))

    def early(eeg: np.ndarray) -> np.ndarray:
        eeg = eeg.copy()
        eeg[5, 100] = 7
        return eeg

    rewritten(tmp_path, raw_eeg_data=early)
    form = RawForm(tmp_path, whitening="session")
    opened = form.open(1, "train")
    name = "sub-01/ses-01/raw_eeg_training.npy"
    # 4 sessions × (12 + 6 trials and 2 targets), and the one that was put in.
    assert f"8 of 81 trials are targets (code {TARGET}) and left out: 8 recordings, the first is {name}" in form.notes
    assert (
        f"1 of 13 trials are dropped: they run over the recording's ends: 1 recordings, the first is {name}"
        in form.notes
    )
    assert opened.repetitions.tolist() == [4] * 12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ch_types": lambda types: types[:-1]}, "6 names and 5 types for 6 channels"),
        ({"ch_types": ["eeg"] * 6}, "expected one channel of type 'stim', found 0"),
        ({"sfreq": 100}, "the sampling rate is 100 Hz"),
        ({"ch_names": ["P7", "Fp1", "Cz", "O1", "PO8", "stim"]}, "has other channels or another rate"),
        ({"raw_eeg_data": lambda eeg: eeg + 0.5}, "the stim line holds values that are no codes"),
        ({"raw_eeg_data": lambda eeg: np.vstack([eeg[:5], eeg[5:] * 0])}, "holds no image's number"),
        ({"raw_eeg_data": lambda eeg: np.vstack([eeg[:2], eeg[2:3] * 0, eeg[3:]])}, "channels Cz never vary"),
        (
            {"raw_eeg_data": lambda eeg: np.vstack([eeg[:4] - eeg[:4].mean(0), eeg[4:]])},
            None,  # shrunk: Σ can be inverted all the same
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, changes: dict[str, Any], message: str | None) -> None:
    write_raw(tmp_path, (1,))
    rewritten(tmp_path, **changes)
    form = RawForm(tmp_path, whitening="session")
    if message is None:
        assert np.isfinite(form.open(1, "test").trials(0)[0].eeg).all()
        return
    with pytest.raises(UserError, match=message):
        form.open(1, "test").trials(0)


def test_a_missing_half_of_a_session_is_named(tmp_path: Path) -> None:
    write_raw(tmp_path, (1,))
    (tmp_path / "sub-01" / "ses-03" / "raw_eeg_test.npy").unlink()
    with pytest.raises(UserError, match=r"ses-03/raw_eeg_test\.npy is missing"):
        RawForm(tmp_path, whitening="session").open(1, "train")
