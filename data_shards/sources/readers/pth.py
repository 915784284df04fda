"""Reads `.pth` and `.pt` files made by torch.save without running anything that is in them."""

import builtins
import dataclasses
import pickle
import re
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.reading import open_file
from neuroimagen.data_shards.sources.readers.pickles import load_pickle

_FORBIDDEN = re.compile(
    r"(?:GLOBAL|class|function|Trying to instantiate|Trying to call) "
    rf"([\w.]*\.[\w.]+|(?:{'|'.join(dir(builtins))}) was)"
)
"""How torch names what it refuses; it names a builtin such as eval without its module."""


_TORCH_PROTOCOL = 2
_PROTO = 0x80
"""The instruction that a pickle begins with; the protocol follows."""
_LOCAL_HEADER_BYTES = 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Pickled:
    """The pickle inside the zip archive that torch.save writes."""

    offset: int
    """Of its first byte in the file."""
    size: int
    protocol: int
    holds_tensors: bool
    """Tensors lie beside the pickle, as members of the archive named data/0, data/1 …"""


def load_pth(path: Path) -> Any:
    """Load tensors or NumPy arrays, and plain containers; those of zip-format files stay on disk, mapped into memory.

    PyTorch's own restricted unpickler knows tensors and the instructions of pickle protocol 2. Files that hold NumPy
    arrays, or were saved with a later protocol, are read by ours (pickles.py), which knows no tensors.

    Raises UserError for a missing file, one that is cut short or damaged, and one whose pickle asks for anything but
    tensors, numbers, text, lists and dictionaries: such a file would run code, so it is refused.
    """
    import torch

    try:
        with open_file(path) as file:
            is_zip = file.read(4) == b"PK\x03\x04"
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}.") from None
    pickled = _pickle_in_zip(path) if is_zip else None
    if pickled is not None and pickled.protocol > _TORCH_PROTOCOL:
        if pickled.holds_tensors:
            raise UserError(
                f"{path} holds tensors in pickle protocol {pickled.protocol}, which PyTorch reads only by running what "
                "is in the file. Where you trust it, save it again: torch.save(torch.load(…), …), no pickle_protocol."
            )
        return load_pickle(path, offset=pickled.offset, size=pickled.size)
    try:
        with warnings.catch_warnings():
            # About the pickle protocol of files that are refused a moment later.
            warnings.simplefilter("ignore", UserWarning)
            # Files from before PyTorch 1.6 are not zip archives and cannot be mapped; they are read completely.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        if forbidden := _FORBIDDEN.search(str(error)):
            name = forbidden[1].removesuffix(" was")
            if pickled is not None and not pickled.holds_tensors and name.startswith("numpy."):
                return load_pickle(path, offset=pickled.offset, size=pickled.size)
            raise UserError(
                f"{path} is refused: its pickle asks for {name}, and loading it would run code. Only tensors, "
                "numbers, text, lists and dictionaries are accepted. Get the file from its publisher."
            ) from None
        raise _damaged(path, str(error)) from None
    except LookupError:  # its text is the byte that was found in place of an instruction
        raise _damaged(path, "it does not begin like one") from None
    except (RuntimeError, EOFError, ValueError, TypeError, AttributeError, OSError) as error:
        raise _damaged(path, str(error)) from None


def _damaged(path: Path, detail: str) -> UserError:
    reason = detail.strip().splitlines()[0].split(". ")[0].rstrip(".")[:160] if detail.strip() else "it ends too early"
    return UserError(
        f"{path} ({path.stat().st_size:,} bytes) is not a complete file of torch.save: {reason}. It was probably "
        "cut short while copying or downloading; get it again."
    )


def _pickle_in_zip(path: Path) -> _Pickled | None:
    """Where the pickle lies; None where there is none that is stored uncompressed: PyTorch says what is wrong."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith("/data.pkl")]
            tensors = any("/data/" in member.filename for member in archive.infolist())
            if len(members) != 1 or members[0].compress_type != zipfile.ZIP_STORED:
                return None
            member = members[0]
        with open_file(path) as file:
            file.seek(member.header_offset)
            header = file.read(_LOCAL_HEADER_BYTES)
            offset = member.header_offset + _LOCAL_HEADER_BYTES + sum(struct.unpack("<HH", header[26:30]))
            file.seek(offset)
            begin = file.read(2)
    except (OSError, ValueError, struct.error, zipfile.BadZipFile, NotImplementedError):
        return None
    if len(begin) < 2 or begin[0] != _PROTO:
        return None
    return _Pickled(offset=offset, size=member.file_size, protocol=begin[1], holds_tensors=tensors)
