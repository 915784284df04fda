"""Reads `.npy` files: arrays, pickled dictionaries of np.save, and plain pickles that are only named so."""

from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.limits import MAX_NPY_HEADER_BYTES
from neuroimagen.data_shards.common.reading import open_file
from neuroimagen.data_shards.sources.readers.pickles import load_pickle

_PICKLE = b"\x80"
"""First byte of pickles from protocol 2 on."""

_DAMAGE = (ValueError, EOFError, TypeError, AttributeError, LookupError, MemoryError, SyntaxError, TokenError)
"""What NumPy raises for headers that are none."""


def load_npy(path: Path) -> Any:
    """Read an array, or the object that is pickled in the file if it is made of arrays, lists, dicts, text and numbers.

    Arrays are mapped from the file: plain ones, and those of 1 MiB and more in pickles. Raises UserError for a missing
    or damaged file and for a pickle that asks for anything else.
    """
    try:
        with open_file(path) as file:
            if file.read(1) == _PICKLE:
                return load_pickle(path)
            file.seek(0)
            version = np.lib.format.read_magic(file)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }.get(version)
            if read_header is None:
                raise UserError(f"{path} has .npy version {version}; versions 1.0 and 2.0 are read.")
            _, _, dtype = read_header(file, max_header_size=MAX_NPY_HEADER_BYTES)
            if not dtype.hasobject:
                return np.load(path, mmap_mode="r", allow_pickle=False)
            content = load_pickle(path, offset=file.tell())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}.") from None
    except RecursionError:
        raise UserError(f"{path} is not a complete .npy file: its header is nested too deep.") from None
    except _DAMAGE as error:
        raise UserError(f"{path} is not a complete .npy file: {str(error)[:160] or 'it ends too early'}.") from None
    # A 0-dimensional object array: np.save pickles the whole array, whose only item is the dictionary.
    return content.item() if isinstance(content, np.ndarray) and content.shape == () else content
