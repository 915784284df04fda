"""Merges the ranks' logs by time into one file, job.log, while the job runs.

What rank 0 of a shared command prints also goes to output.log, without the warnings of its log; the launching process
prints it.
"""

import contextlib
import io
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from neuroimagen.data_shards.common.console import GuardedStream

MERGED = "job.log"
OUTPUT = "output.log"
"""What rank 0 printed, in all starts of the job."""
Line = tuple[int, str]
"""Global rank, text."""


class LogTail:
    """Reads the lines that the ranks have written since the last call.

    PyTorch's agent gives each rank a folder: `node-<K>/<start>/attempt_<restart>/<local rank>/`. Lines that are there
    at the beginning belong to an earlier start and are skipped.
    """

    def __init__(self, folder: Path, nodes: Sequence[range]) -> None:
        self._folder = folder
        self._nodes = nodes
        """The global ranks of each node."""
        self._read = {path: path.stat().st_size for path, _ in self._files()}

    def _files(self) -> list[tuple[Path, int]]:
        found = []
        for node, ranks in enumerate(self._nodes):
            for path in self._folder.glob(f"node-{node}/*/attempt_*/*/std*.log"):
                local = path.parent.name
                if local.isdecimal() and int(local) < len(ranks):
                    found.append((path, ranks[int(local)]))
        return found

    def poll(self, *, last: bool = False) -> list[Line]:
        """New complete lines; with `last` also a line without an end."""
        lines: list[Line] = []
        for path, rank in self._files():
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                content = file.read()
            end = len(content) if last else content.rfind(b"\n") + 1
            self._read[path] = self._read.get(path, 0) + end
            lines += [(rank, text) for text in content[:end].decode(errors="replace").splitlines() if text.strip()]
        return lines


def append_merged(folder: Path, lines: Iterable[Line], hosts: Mapping[int, str] | None = None) -> None:
    """Add lines to job.log with the time of their arrival, the host (where there are several) and the rank."""
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(now)) + f".{int(now % 1 * 1000):03d}"
    text = "".join(f"{stamp} {f'{hosts[rank]} ' if hosts else ''}rank {rank} | {line}\n" for rank, line in lines)
    if text:
        # The ranks' own logs have it all. On a full disk the ranks end by themselves, with a checkpoint where one fits.
        with contextlib.suppress(OSError), (folder / MERGED).open("a", encoding="utf-8") as file:
            file.write(text)


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
    """Prints what is added to a folder's output.log from now on."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / OUTPUT
        self._position = self._path.stat().st_size if self._path.exists() else 0

    def update(self) -> None:
        """Print the new complete lines."""
        self._print(last=False)

    def close(self) -> None:
        """Print what is left."""
        self._print(last=True)

    def _print(self, *, last: bool) -> None:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._position)
            content = file.read()
        end = len(content) if last else content.rfind(b"\n") + 1
        self._position += end
        print(content[:end].decode(errors="replace"), end="", flush=True)
