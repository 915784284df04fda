"""Reads `.pth` files made by torch.save without running anything that is in them."""

import builtins
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

from neuroimagen.data_shards.common.errors import UserError

_FORBIDDEN = re.compile(
    r"(?:GLOBAL|class|function|Trying to instantiate|Trying to call) "
    rf"([\w.]*\.[\w.]+|(?:{'|'.join(dir(builtins))}) was)"
)
"""How torch names what it refuses; it names a builtin such as eval without its module."""


def load_pth(path: Path) -> Any:
    """Load tensors and plain containers from `path`; tensors of zip-format files stay on disk, mapped into memory.

    Raises UserError for a missing file, one that is cut short or damaged, and one whose pickle asks for anything but
    tensors, numbers, text, lists and dictionaries: such a file would run code, so it is refused.
    """
    import torch

    try:
        with path.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}.") from None
    try:
        with warnings.catch_warnings():
            # About the pickle protocol of files that are refused a moment later.
            warnings.simplefilter("ignore", UserWarning)
            # Files from before PyTorch 1.6 are not zip archives and cannot be mapped; they are read completely.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        if forbidden := _FORBIDDEN.search(str(error)):
            name = forbidden[1].removesuffix(" was")
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
