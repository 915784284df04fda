"""Arrays in .npz files of strangers: the sizes that the archive states are bounded before anything is unpacked."""

import contextlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from neuroimagen.data_shards.common.limits import MAX_ARRAYS_BYTES, MAX_COMPRESSION
from neuroimagen.data_shards.common.reading import open_file


@contextlib.contextmanager
def open_npz(path: Path, *, limit: int = MAX_ARRAYS_BYTES) -> Iterator["np.lib.npyio.NpzFile"]:
    """The arrays of an archive, each read when it is asked for. Nothing is unpickled.

    limit: most bytes of all arrays, uncompressed. Raises ValueError or OSError, and what zipfile raises.
    """
    with open_file(path) as file:
        with zipfile.ZipFile(file) as archive:
            size = sum(member.file_size for member in archive.infolist())
            stored = sum(member.compress_size for member in archive.infolist())
        if size > limit:
            raise ValueError(f"its arrays would unpack to {size:,} bytes; at most {limit:,} are read")
        if size > max(1 << 30, MAX_COMPRESSION * stored):
            raise ValueError(f"its {stored:,} bytes would unpack to {size:,}, which arrays of EEG do not")
        file.seek(0)
        loaded = np.load(file, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise ValueError("it is no .npz archive")
        with loaded as arrays:
            yield arrays
