"""What rank 0 of a shared command prints: it also goes to output.log, from which the launching process prints it."""

import contextlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from neuroimagen.data_shards.common.console import GuardedStream
from neuroimagen.data_shards.common.progress import bar

MERGED = "job.log"
"""Output of the programs that start and watch ranks, with the lines of all ranks."""
OUTPUT = "output.log"
"""What rank 0 printed, in all starts of the job."""
PROGRESS = "progress.txt"
"""The line of rank 0's progress bar, while it shows one."""


class _Tee(io.TextIOBase):
    """Writes everything to two files at once. One that cannot be written does not end the job, nor the other."""

    def __init__(self, first: TextIO, second: TextIO) -> None:
        self._files = (GuardedStream(first), GuardedStream(second))

    def write(self, text: str) -> int:
        for file in self._files:
            file.write(text)
            file.flush()
        return len(text)


@contextlib.contextmanager
def kept_output(folder: Path) -> Iterator[None]:
    """Within this context, add what is printed to the folder's output.log too."""
    with (folder / OUTPUT).open("a", encoding="utf-8") as file, contextlib.redirect_stdout(_Tee(sys.stdout, file)):
        yield


class OutputTail:
    """Prints what is added to a folder's output.log from now on, and shows rank 0's progress bar on a terminal."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / OUTPUT
        self._progress = folder / PROGRESS
        self._progress.unlink(missing_ok=True)  # of an earlier start
        self._bar = bar(bar_format="{desc}")
        self._position = self._path.stat().st_size if self._path.exists() else 0

    def update(self) -> None:
        """Print the new complete lines, show the bar as it is now."""
        self._print(last=False)
        if not self._bar.disable:
            with contextlib.suppress(OSError):  # it is not there yet
                self._bar.set_description_str(self._progress.read_text(encoding="utf-8"))

    def close(self) -> None:
        """Print what is left, and remove the bar."""
        self._print(last=True)
        self._bar.close()
        self._progress.unlink(missing_ok=True)

    def _print(self, *, last: bool) -> None:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._position)
            content = file.read()
        end = len(content) if last else content.rfind(b"\n") + 1
        self._position += end
        text = content[:end].decode(errors="replace")
        if self._bar.disable:
            print(text, end="", flush=True)
        elif text:
            self._bar.write(text, file=sys.stdout, end="")
