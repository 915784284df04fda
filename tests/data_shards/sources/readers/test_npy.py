"""`.npy` files: arrays are mapped, pickles are read only where they hold arrays and plain containers."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from source_files import Bomb

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.readers.npy import load_npy

CONTENT = {"eeg": np.arange(24.0).reshape(2, 3, 4), "names": ["Cz", "Pz"], "rate": np.float64(250.0), "n": 3}


def save_with_protocol(path: Path, content: object, protocol: int) -> None:
    """What np.save writes for an object, with another pickle protocol than its own."""
    array = np.array(content, dtype=object)
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|O", "fortran_order": False, "shape": ()})
    path.write_bytes(buffer.getvalue() + pickle.dumps(array, protocol=protocol))


def test_an_array_is_mapped_not_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", CONTENT["eeg"])
    loaded = load_npy(tmp_path / "a.npy")
    assert isinstance(loaded, np.memmap)
    np.testing.assert_array_equal(loaded, CONTENT["eeg"])


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickled_dictionary_of_arrays_is_read(tmp_path: Path, protocol: int) -> None:
    save_with_protocol(tmp_path / "a.npy", CONTENT, protocol)
    loaded = load_npy(tmp_path / "a.npy")
    assert set(loaded) == set(CONTENT)
    np.testing.assert_array_equal(loaded["eeg"], CONTENT["eeg"])
    assert (loaded["names"], loaded["rate"], loaded["n"]) == (["Cz", "Pz"], 250.0, 3)


def test_a_pickle_that_asks_for_more_is_refused(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    np.save(tmp_path / "bomb.npy", {"eeg": Bomb(witness)}, allow_pickle=True)
    with pytest.raises(UserError, match=r"bomb\.npy is refused: its pickle asks for posix\.system"):
        load_npy(tmp_path / "bomb.npy")
    assert not witness.exists()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_plain_pickle_of_that_name_is_read(tmp_path: Path, protocol: int) -> None:
    with (tmp_path / "a.npy").open("wb") as file:
        pickle.dump(CONTENT, file, protocol=protocol)
    loaded = load_npy(tmp_path / "a.npy")
    np.testing.assert_array_equal(loaded["eeg"], CONTENT["eeg"])
    assert (loaded["names"], loaded["rate"], loaded["n"]) == (["Cz", "Pz"], 250.0, 3)


def test_an_array_of_objects_is_read(tmp_path: Path) -> None:
    items = np.array([{"eeg": np.arange(3.0)}, {"eeg": None}], dtype=object)
    np.save(tmp_path / "a.npy", items, allow_pickle=True)
    loaded = load_npy(tmp_path / "a.npy")
    assert loaded.shape == (2,)
    assert loaded[0]["eeg"].tolist() == [0.0, 1.0, 2.0]
    assert loaded[1] == {"eeg": None}


def test_files_that_are_cut_short_or_missing_are_named(tmp_path: Path) -> None:
    path = tmp_path / "cut.npy"
    np.save(path, CONTENT, allow_pickle=True)
    whole = path.read_bytes()
    for length in (0, 5, 60, 150, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cut\.npy (is not a complete|is refused|has \.npy version)"):
            load_npy(path)
    with pytest.raises(UserError, match="No such file"):
        load_npy(tmp_path / "none.npy")
