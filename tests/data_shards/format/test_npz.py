"""Archives of arrays are bounded before they are unpacked."""

import zipfile
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


def test_a_small_file_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    """2 GiB of zeros in 2 MB, within the limit of all arrays."""
    path = tmp_path / "bomb.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("eeg.npy", "w", force_zip64=True) as member,
    ):
        np.lib.format.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": (1 << 29,)})
        for _ in range(128):
            member.write(bytes(1 << 24))
    with pytest.raises(ValueError, match=r"would unpack to 2,147,483,\d+, which arrays of EEG do not"), open_npz(path):
        pass
