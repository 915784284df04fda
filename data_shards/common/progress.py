"""Progress bars, on a terminal and on rank 0 only: the one place that decides where they are shown.

Ranks that a launcher started write to log files, not to a terminal. There rank 0 keeps its bar as one line of text in
the file that PROGRESS_VARIABLE names, and the launcher shows that line on its own terminal.
"""

import contextlib
import io
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from tqdm import tqdm

T = TypeVar("T")
PROGRESS_VARIABLE = "NEUROIMAGEN_PROGRESS"
"""Environment variable: path of the file in which rank 0 keeps the line of its bar."""
_FILE_SECONDS = 1.0
"""Time between two writes of that file."""


def bar(total: float | None = None, *, desc: str = "", unit: str = "it", **options: Any) -> "tqdm[Any]":
    """A progress bar on stderr; hidden when stderr is not a terminal or this is not rank 0. `options` are tqdm's.

    Close it, or use it as a context.
    """
    from tqdm import tqdm

    is_first = os.environ.get("RANK", "0") == "0"
    path = os.environ.get(PROGRESS_VARIABLE)
    if is_first and path and not sys.stderr.isatty():
        kept = {"file": _LineFile(Path(path)), "mininterval": _FILE_SECONDS}
        return tqdm(total=total, desc=desc, unit=unit, leave=False, **kept, **options)
    hidden = not (is_first and sys.stderr.isatty())
    return tqdm(total=total, desc=desc, unit=unit, disable=hidden, leave=False, **options)


def track(iterable: Iterable[T], *, total: int | None = None, desc: str = "", unit: str = "it") -> Iterator[T]:
    """Iterate with a progress bar (`bar`)."""
    with bar(total, desc=desc, unit=unit) as shown:
        for item in iterable:
            yield item
            shown.update()


class _LineFile(io.TextIOBase):
    """Keeps the last line that a bar wrote in a file. A disk that is full or gone costs the line, not the job."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, text: str) -> int:
        line = text.replace("\x1b[A", "").strip()
        if line or "\r" in text:  # a carriage return with blanks clears the line
            with contextlib.suppress(OSError):
                self._path.write_text(line, encoding="utf-8")
        return len(text)
