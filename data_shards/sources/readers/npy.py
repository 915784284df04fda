"""Reads the pickles that some published `.npy` files hold, admitting NumPy arrays and plain containers only.

`np.save` of a dictionary writes a pickle. This unpickler resolves the handful of names that arrays, their dtypes and
NumPy scalars are made of, and refuses every other: a file that asks for anything else would run code.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy._core import multiarray, numeric  # type: ignore[attr-defined]

from neuroimagen.data_shards.common.errors import UserError

_MAX_HEADER_BYTES = 10_000
_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    **{
        (f"numpy.{core}.multiarray", name): getattr(multiarray, name)
        for core in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    },
    **{(f"numpy.{core}.numeric", "_frombuffer"): numeric._frombuffer for core in ("core", "_core")},  # type: ignore[attr-defined]
    # Python 2 and protocol 2 write byte strings as encoded text.
    ("_codecs", "encode"): None,
}


def _encode(text: str, encoding: str) -> bytes:
    """The one use that pickled arrays make of codecs.encode."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"codec {encoding!r}")
    return text.encode("latin1")


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return _encode if module == "_codecs" else _ALLOWED[module, name]


def load_npy(path: Path) -> Any:
    """Read an array, or the object that is pickled in a `.npy` if it is made of arrays, lists, dicts, text and numbers.

    Plain arrays are memory-mapped. Raises UserError for a missing or damaged file and for a pickle that asks for
    anything else.
    """
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }.get(version)
            if read_header is None:
                raise UserError(f"{path} has .npy version {version}; versions 1.0 and 2.0 are read.")
            shape, _, dtype = read_header(file, max_header_size=_MAX_HEADER_BYTES)
            if not dtype.hasobject:
                return np.load(path, mmap_mode="r", allow_pickle=False)
            if shape != ():
                raise UserError(f"{path} holds an array of objects, not one dictionary.")
            # A 0-dimensional object array: np.save pickles the whole array, whose only item is the dictionary.
            content = _ArrayUnpickler(file).load()
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is refused: its pickle asks for {error}, and loading it would run code. Only NumPy arrays, lists, "
            "dictionaries, text and numbers are accepted."
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}.") from None
    except (ValueError, EOFError, TypeError, AttributeError, LookupError, MemoryError) as error:
        raise UserError(f"{path} is not a complete .npy file: {str(error)[:160] or 'it ends too early'}.") from None
    return content.item() if isinstance(content, np.ndarray) and content.shape == () else content
