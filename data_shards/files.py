"""Outputs appear whole or not at all: written under a temporary sibling name, synced, renamed."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from neuroimagen.data_shards.errors import UserError


def _temporary_sibling(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.part")


def sync_path(path: Path) -> None:
    """Flush a file's or folder's content to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary file name beside `path`; on success it replaces `path`, on an error it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_sibling(path)
    try:
        yield temporary
        sync_path(temporary)
        temporary.replace(path)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}. Free space or choose another place."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


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
    except OSError as error:
        raise UserError(
            f"cannot write {folder}: {error.strerror or error}. Free space or choose another --out; nothing is left."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
