"""Pickles of arrays, of every protocol, are read; what else a pickle asks for is refused, and nothing happens."""

import collections
import io
import pickle
import pickletools
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from source_files import Bomb

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.readers import pickles
from neuroimagen.data_shards.sources.readers.pickles import load_pickle

LARGE = np.random.default_rng(0).standard_normal((40, 3, 2000))
CONTENT = {
    "eeg": LARGE,
    "fortran": np.asfortranarray(LARGE),
    "half": LARGE[:2].astype(np.float16),
    "swapped": np.arange(5, dtype=">i4"),
    "flags": np.array([True, False]),
    "empty": np.empty((0, 3)),
    "scalar": np.float32(2.5),
    "zero_d": np.array(7),
    "words": np.array(["train_images/00001_aardvark/aardvark_01b.jpg", "b"]),
    "objects": np.array(["Cz", None, 3], dtype=object),
    "names": ["Cz", "Pz"],
    "nested": {"a": (1, 2.5, None, True), "b": [[], {}]},
    b"bytes": b"\x00\xff",
    3: -(2**40),
}


def dumped(path: Path, content: Any, protocol: int) -> Path:
    with path.open("wb") as file:
        pickle.dump(content, file, protocol=protocol)
    return path


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, np.ndarray):
        assert isinstance(found, np.ndarray)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(found, expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert type(found) is type(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert (type(found), found) == (type(expected), expected)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_and_plain_containers_come_back(tmp_path: Path, protocol: int) -> None:
    assert_same(load_pickle(dumped(tmp_path / "a.npy", CONTENT, protocol)), CONTENT)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_large_arrays_stay_in_the_file(tmp_path: Path, protocol: int) -> None:
    loaded = load_pickle(dumped(tmp_path / "a.npy", CONTENT, protocol))
    assert isinstance(loaded["eeg"], np.memmap)
    assert not loaded["eeg"].flags.writeable
    assert not isinstance(loaded["half"], np.memmap)


def test_names_of_earlier_numpys_are_known(tmp_path: Path) -> None:
    content = pickle.dumps(CONTENT, protocol=2)
    assert b"numpy._core" in content
    (tmp_path / "a.npy").write_bytes(content.replace(b"numpy._core", b"numpy.core"))
    assert_same(load_pickle(tmp_path / "a.npy"), CONTENT)


def test_an_array_that_python_2_wrote_is_read(tmp_path: Path) -> None:
    """Byte strings by SHORT_BINSTRING, as protocol 2 of Python 2 has them."""
    eeg = np.array([1.5, -2.0], dtype="<f8")
    content = (
        b"\x80\x02}U\x01x"  # PROTO 2, EMPTY_DICT, 'x'
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x10" + eeg.tobytes() + b"tbs."
    )
    (tmp_path / "data.pkl").write_bytes(content)
    assert_same(load_pickle(tmp_path / "data.pkl", encoding="latin1"), {"x": eeg})


def test_one_array_in_two_places_is_one_and_cycles_end(tmp_path: Path) -> None:
    array = np.arange(3)
    content: dict[str, Any] = {"a": array, "b": [array]}
    content["self"] = content
    loaded = load_pickle(dumped(tmp_path / "a.npy", content, 4))
    assert loaded["a"] is loaded["b"][0]
    assert loaded["self"] is loaded


class Anything:
    """An object of the user's, whose state is set from the pickle."""


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    ("content", "name"),
    [
        (Anything(), "Anything|copy_reg._reconstructor"),
        (collections.OrderedDict(a=1), "collections.OrderedDict"),
        ({1, 2}, "set|EMPTY_SET|frozenset"),
        (print, "print"),
        (slice(3), "slice"),
        (np.datetime64("2020-01-01"), "datetime64|dtype"),
        (np.zeros(2, dtype=[("a", "f8"), ("b", "i4")]), "dtype"),
        (np.ma.masked_array([1.0], [True]), "masked|_mareconstruct"),
        (np.random.default_rng(0), "generator|Generator"),
    ],
)
def test_other_objects_are_refused(tmp_path: Path, protocol: int, content: Any, name: str) -> None:
    path = dumped(tmp_path / "a.npy", content, protocol)
    with pytest.raises(UserError, match=rf"a\.npy is (refused: its pickle asks for|not a complete).*({name})"):
        load_pickle(path)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_bomb_does_not_go_off(tmp_path: Path, protocol: int) -> None:
    witness = tmp_path / "witness"
    path = dumped(tmp_path / "a.npy", {"eeg": LARGE, "more": [Bomb(witness)]}, protocol)
    with pytest.raises(UserError, match=r"asks for posix\.system, and loading it would run code"):
        load_pickle(path)
    assert not witness.exists()


def test_arrays_outside_the_pickle_are_refused(tmp_path: Path) -> None:
    buffers: list[Any] = []
    (tmp_path / "a.npy").write_bytes(pickle.dumps(LARGE, protocol=5, buffer_callback=buffers.append))
    with pytest.raises(UserError, match="asks for NEXT_BUFFER"):
        load_pickle(tmp_path / "a.npy")


RECONSTRUCT = b"cnumpy._core.multiarray\n_reconstruct\n"
NDARRAY = b"cnumpy\nndarray\n"
F8 = b"cnumpy\ndtype\nX\x02\x00\x00\x00f8\x89\x88\x87R"
HUGE = struct.pack("<q", 1 << 40)


@pytest.mark.parametrize(
    "content",
    {
        "bytes beyond the file": b"\x80\x04\x8e" + HUGE + b"abc.",
        "a bytearray beyond the file": b"\x80\x05\x96" + HUGE + b"abc.",
        "text beyond the file": b"\x80\x04\x8d" + HUGE + b"abc.",
        "a frame beyond the file": b"\x80\x04\x95" + HUGE + b"]a.",
        "a memo of gigabytes": b"\x80\x02]r\xff\xff\xff\x7f.",
        "a memo of gigabytes, in digits": b"\x80\x02]p2147483000\n.",
        "a number of many digits": b"\x80\x02\x8b\x04\x00\x00\x00\x01\x01\x01\x01.",
        "decimals without end": b"\x80\x02L" + b"9" * 100_000 + b"L\n.",
        "an array of a terabyte": b"\x80\x02"
        + RECONSTRUCT
        + NDARRAY
        + b"\x8a\x06\x00\x00\x00\x00\x00\x01\x85C\x01b\x87R.",
        "ndarray itself is called": b"\x80\x02" + NDARRAY + b"\x8a\x06\x00\x00\x00\x00\x00\x01\x85\x85R.",
        "an array without a state": b"\x80\x02" + RECONSTRUCT + NDARRAY + b"K\x00\x85C\x01b\x87R.",
        "fewer bytes than the shape": b"\x80\x02"
        + RECONSTRUCT
        + NDARRAY
        + b"K\x00\x85C\x01b\x87R(K\x01M\xff\xff\x85"
        + F8
        + b"\x89C\x08aaaaaaaatb.",
        "a negative shape": b"\x80\x02"
        + RECONSTRUCT
        + NDARRAY
        + b"K\x00\x85C\x01b\x87R(K\x01J\xff\xff\xff\xff\x85"
        + F8
        + b"\x89C\x00tb.",
        "fields beyond the item": b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00V8\x89\x88\x87R.",
        "a dtype of gigabytes": b"\x80\x02cnumpy\ndtype\nX\x0a\x00\x00\x00S999999999\x89\x88\x87R.",
        "the state of a function": b"\x80\x02" + RECONSTRUCT + b"}X\x0c\x00\x00\x00__defaults__K\x01sb.",
        "the state of a list": b"\x80\x02]}X\x01\x00\x00\x00aK\x01sb.",
        "a dtype as a value": b"\x80\x02" + F8 + b".",
        "a function as a value": b"\x80\x02" + RECONSTRUCT + b".",
        "a mapped array that is not there": b"\x80\x02K\x05Q.",
        "nothing on the stack": b"\x80\x02.",
        "no end": b"\x80\x02]",
        "no pickle": b"\x80\x02\xfe.",
        "text of ASCII beyond it": b"\x80\x02U\x01\xff.",
        "deep lists": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
        "nothing": b"",
    }.items(),
    ids=lambda item: item[0],
)
def test_hostile_pickles_are_refused(tmp_path: Path, content: tuple[str, bytes]) -> None:
    (tmp_path / "a.npy").write_bytes(content[1])
    with pytest.raises(UserError, match=r"a\.npy"):
        load_pickle(tmp_path / "a.npy")


def test_more_items_than_any_data_set_has_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MAX_INSTRUCTIONS", 1000)
    with pytest.raises(UserError, match="more than 1,000 items"):
        load_pickle(dumped(tmp_path / "a.npy", list(range(1000)), 4))


def test_whatever_is_damaged_is_a_user_error_or_plain(tmp_path: Path) -> None:
    """Bytes of a good pickle are changed at random: no crash, no other exception, no object that is not plain."""
    good = pickle.dumps({name: value for name, value in CONTENT.items() if name not in ("eeg", "fortran", "half")}, 4)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(3000):
        damaged = bytearray(good)
        for place in rng.integers(0, len(good), rng.integers(1, 4)):
            damaged[place] = rng.integers(0, 256)
        (tmp_path / "a.npy").write_bytes(damaged)
        try:
            loaded = load_pickle(tmp_path / "a.npy")
        except UserError:
            refused += 1
        else:
            assert loaded is None or type(loaded).__module__ in ("builtins", "numpy")
    assert refused > 1000


def test_every_cut_is_refused(tmp_path: Path) -> None:
    good = pickle.dumps({"eeg": LARGE, "names": ["a"]}, 4)
    ends = [place + 1 for _, _, place in pickletools.genops(good)][:-1]
    for end in (*ends, len(good) - 1, len(good) // 2):
        (tmp_path / "a.npy").write_bytes(good[:end])
        with pytest.raises(UserError, match=r"a\.npy is (not a complete|refused)"):
            load_pickle(tmp_path / "a.npy")


def test_a_pickle_may_lie_inside_a_file(tmp_path: Path) -> None:
    buffer = io.BytesIO(b"before it")
    buffer.seek(0, io.SEEK_END)
    pickle.dump(CONTENT, buffer, protocol=5)
    end = buffer.tell()
    buffer.write(b"behind it")
    (tmp_path / "a.zip").write_bytes(buffer.getvalue())
    assert_same(load_pickle(tmp_path / "a.zip", offset=9, size=end - 9), CONTENT)
    with pytest.raises(UserError, match="not a complete"):
        load_pickle(tmp_path / "a.zip", offset=9, size=end - 10)
