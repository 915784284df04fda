"""Arrays, epochs and files, and what they say of themselves."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.new_eeg.given import given_eeg, read_eeg


def test_epochs_say_all_of_it_themselves(study: Callable, tmp_path: Path) -> None:
    epochs = study(tmax=0.5).epochs(-0.2, 0.8, baseline=(-0.2, 0.0))
    given = given_eeg(epochs)
    assert (given.sfreq, given.unit, given.tmin, given.baseline_s) == (200.0, "V", -0.2, (-0.2, 0.0))
    assert given.channel_names == ("Fz", "Cz", "Pz", "Oz", "M1")
    epochs.save(tmp_path / "a-epo.fif", verbose="ERROR")
    again = read_eeg(tmp_path / "a-epo.fif")
    np.testing.assert_allclose(again.eeg, given.eeg, rtol=1e-6)
    assert again.channel_names == given.channel_names
    assert (again.tmin, *(again.baseline_s or ())) == pytest.approx((-0.2, -0.2, 0.0), abs=1e-6)
    with pytest.raises(UserError, match="the epochs says unit itself"):
        given_eeg(epochs, unit="uV")
    with pytest.raises(UserError, match=r"given as Raw.*Cut a recording into epochs first"):
        given_eeg(study(tmax=0.5).raw)


def test_files_of_arrays(tmp_path: Path) -> None:
    eeg = np.ones((2, 3, 4), dtype=np.float32)
    np.save(tmp_path / "a.npy", eeg)
    assert np.array_equal(read_eeg(tmp_path / "a.npy").eeg, eeg)
    np.savez(tmp_path / "b.npz", eeg=eeg, sfreq=250, channel_names=["a", "b", "c"], unit="V", subject=3)
    found = read_eeg(tmp_path / "b.npz")
    assert (found.sfreq, found.channel_names, found.unit, found.subject) == (250.0, ("a", "b", "c"), "V", 3)


def test_files_that_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", eeg=np.array([{"x": 1}], dtype=object))
    np.savez(tmp_path / "b.npz", data=np.ones(3))
    np.savez(tmp_path / "c.npz", sfreq=3)
    np.save(tmp_path / "d.npy", np.ones((3, 4)))
    (tmp_path / "e.fif").write_bytes(b"nothing")
    (tmp_path / "f.mat").write_bytes(b"nothing")
    for name, message in {
        "a.npz": "It must be an .npz of plain arrays",
        "b.npz": "holds 'data'; it may hold eeg, sfreq",
        "c.npz": "holds no array 'eeg'",
        "d.npy": r"float64 of shape \(3, 4\); expected numbers \[segments, channels, samples\]",
        "e.fif": "holds no epochs that MNE reads",
        "f.mat": "none of the files that are read",
        "g.npy": "there is no file",
    }.items():
        with pytest.raises(UserError, match=message):
            read_eeg(tmp_path / name)
    with pytest.raises(UserError, match="has 3 channels, and 2 names are given"):
        given_eeg(np.ones((1, 3, 4)), channel_names=["a", "b"])


@pytest.mark.parametrize(
    "odd", [{"sfreq": np.zeros(2)}, {"sfreq": np.array("x")}, {"channel_names": np.array(3)}, {"tmin": np.zeros((0,))}]
)
def test_odd_values_beside_the_eeg_are_named(tmp_path: Path, odd: dict[str, np.ndarray]) -> None:
    np.savez(tmp_path / "a.npz", eeg=np.ones((2, 3, 4), dtype=np.float32), **odd)
    with pytest.raises(UserError, match=r"cannot use what .*a\.npz says beside 'eeg'"):
        read_eeg(tmp_path / "a.npz")
