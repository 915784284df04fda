"""Reads of files that anyone may have written: regular files only, of bounded size and depth, with one line of error.

A FIFO or a device where a file is expected would make a reader wait for ever, or fill the memory.
"""

import contextlib
import errno
import io
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.limits import MAX_JSON_BYTES, MAX_JSON_DEPTH, MAX_JSON_DIGITS, shortened

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}


def require_file(path: Path) -> Path:
    """Return `path` if it is a regular file or a link to one. Raises OSError, at once, for anything else."""
    _check_mode(path.stat().st_mode, path)
    return path


def _check_mode(mode: int, path: Path) -> None:
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"it is {_KINDS.get(stat.S_IFMT(mode), 'no file')}, not a file", str(path))


def open_file(path: Path) -> io.BufferedReader:
    """Open a regular file for reading. Raises OSError, at once, for anything else."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # O_NONBLOCK: a FIFO opens without a writer
    try:
        _check_mode(os.fstat(descriptor).st_mode, path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: Path, *, limit: int = MAX_JSON_BYTES) -> bytes:
    """The content of a regular file of at most `limit` bytes. Raises OSError."""
    with open_file(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"it is larger than {limit:,} bytes", str(path))
    return content


def read_text(path: Path, *, limit: int = MAX_JSON_BYTES) -> str:
    """The same as UTF-8 text, line ends as "\\n". Raises OSError, or ValueError where it is not UTF-8."""
    text = read_bytes(path, limit=limit).decode("utf-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_json(content: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError, also where it is nested too deep or has too large a whole number."""
    try:
        value = json.loads(content, parse_int=_whole_number)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner += [each for each in item.values() if isinstance(each, dict | list)]
            elif isinstance(item, list):
                inner += [each for each in item if isinstance(each, dict | list)]
        if not inner:
            return value
        level = inner
    raise ValueError(f"it is nested more than {MAX_JSON_DEPTH} levels deep")


def _whole_number(text: str) -> int:
    if len(text) > MAX_JSON_DIGITS:
        raise ValueError(f"a whole number has {len(text)} digits")
    return int(text)


def read_json(path: Path, *, limit: int = MAX_JSON_BYTES) -> Any:
    """The value of a JSON file. Raises OSError or ValueError."""
    return parse_json(read_bytes(path, limit=limit))


def read_json_object(path: Path, *, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The object of a JSON file. Raises OSError, or ValueError where it holds anything else."""
    value = read_json(path, limit=limit)
    if not isinstance(value, dict):
        raise ValueError(f"it holds {type(value).__name__} where an object is expected")
    return value


@contextlib.contextmanager
def content_of(action: str, *, remedy: str) -> Iterator[None]:
    """Work on the content of a file or folder; what wrong content makes libraries and ours raise becomes a UserError.

    action: what is done with which file, for the message: "read x.json". remedy: what to do, a sentence.
    """
    try:
        yield
    except UserError:
        raise
    # Damaged content raises whatever the code that meets it raises: KeyError, TypeError, and the own types of
    # safetensors, Arrow, zipfile, tokenizers, which have no base class in common. `--debug` shows where.
    except Exception as error:
        raise UserError(f"cannot {action}: {reason(error)}. {remedy}") from error


def reason(error: BaseException) -> str:
    """What an error says, as part of a sentence: its first line that says anything, without an end."""
    text = getattr(error, "strerror", None) or str(error)
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    if isinstance(error, KeyError):
        line = f"{line} is missing"
    elif isinstance(error, MemoryError):
        line = "it takes more memory than there is"
    return shortened(line.rstrip(".:"), 400) or type(error).__name__


def held_inside(folder: Path, name: str) -> Path:
    """The file that `name` means in `folder`. Raises ValueError if it lies outside, also by a symbolic link."""
    path = folder / name
    if not name or "\0" in name or not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{shortened(name)!r} is a file outside {folder}")
    return path
