"""Outputs that appear complete or not at all: written under a temporary name beside the target, synced, renamed."""

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.reading import reason


def _temporary_sibling(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.part")


def sync_path(path: Path) -> None:
    """Flush a file's or folder's content to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_problem(error: Exception) -> str | None:
    """What kept a file from being written, as part of a sentence; None for an error that is not of that kind.

    safetensors has a type of its own for a full disk, which is no OSError, and which is not imported for its name.
    """
    if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
        return reason(error)
    return None


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary file name beside `path`; on success it replaces `path`, on an error it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_sibling(path)
    try:
        yield temporary
        sync_path(temporary)
        temporary.replace(path)
    except Exception as error:
        if (problem := write_problem(error)) is None:
            raise
        raise UserError(f"cannot write {path}: {problem}. Free space or choose another place.") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text for people, in UTF-8, as a whole or not at all. Its parts may come from files of strangers.

    What no UTF-8 text has (half of a surrogate pair, a byte of a file's name that is no text) is written as "?".
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace")


def refuse_existing(folder: Path) -> None:
    """Raise UserError if `folder` exists and holds anything."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not empty. Choose another --out, or remove it first.")


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`; on success it becomes `folder`, on an error it is removed.

    Raises UserError if `folder` exists and is not empty, or if writing fails (a full disk, for instance).
    """
    refuse_existing(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_sibling(folder)
    temporary.mkdir()
    try:
        yield temporary
        if folder.exists():
            folder.rmdir()
        temporary.replace(folder)
        sync_path(folder.parent)
    except Exception as error:
        if (problem := write_problem(error)) is None:
            raise
        raise UserError(
            f"cannot write {folder}: {problem}. Free space or choose another --out; nothing was written."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def held_folder(folder: Path, *, doing: str, option: str) -> Iterator[None]:
    """Lock a folder for one job; the lock ends with the process. A job that fails before it has written anything
    removes the folders and the lock file that it made.

    `doing` says in a word what the job does there ("training"), and `option` is the command-line option that chooses
    the folder; both are for the message. Raises UserError, naming the process, if another job holds the folder.
    """
    lock = folder / ".lock"
    try:
        made = [path for path in (folder, *folder.parents) if not path.exists()]  # innermost first
        before = set(folder.iterdir()) if folder.is_dir() else set()
        file = _open_lock(lock)
        while not _is_taken(file, lock, doing=doing, option=option):
            file.close()
            file = _open_lock(lock)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}. Choose another {option}.") from None
    with file:
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        except BaseException:
            with suppress(OSError):  # another job has begun something in the folder meanwhile, or has removed it
                if lock not in before and set(folder.iterdir()) == before | {lock}:
                    lock.unlink()
                    for path in made:
                        path.rmdir()
            raise


def _open_lock(path: Path) -> TextIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a+", encoding="utf-8")


def _is_taken(file: TextIO, path: Path, *, doing: str, option: str) -> bool:
    """Take the lock. Returns False if the file was removed meanwhile, by a job that failed; UserError if it is held."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        with file:
            holder = file.read().strip() or "?"
        raise UserError(
            f"process {holder} is {doing} in {path.parent} now. Wait for it, or choose another {option}."
        ) from None
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
