"""Archives of arrays are bounded before they are unpacked."""

from pathlib import Path

import numpy as np
import pytest

from neuroimagen.data_shards.format.npz import open_npz


def test_arrays_are_read_and_bounded(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, eeg=np.zeros((100, 1000)), label=np.arange(3))
    with open_npz(path) as arrays:
        assert arrays["label"].tolist() == [0, 1, 2]
        assert arrays["eeg"].shape == (100, 1000)
    assert path.stat().st_size < 5000
    with pytest.raises(ValueError, match=r"unpack to 80\d,\d{3} bytes"), open_npz(path, limit=500_000):
        pass


def test_pickles_and_other_files_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{}], dtype=object))
    with open_npz(tmp_path / "a.npz") as arrays, pytest.raises(ValueError, match="pickle"):
        arrays["x"]
    (tmp_path / "b.npz").write_bytes(b"PK")
    with pytest.raises(Exception, match="not a zip"), open_npz(tmp_path / "b.npz"):
        pass
