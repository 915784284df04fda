"""Standard output and error of a job: a stream that cannot be written loses text, never the job.

The command line and every rank run inside `guarded_output`. What they print then cannot end them, whatever the text
and whatever the state of the stream: a reader that is gone (`| head -1`), a full disk, a closed stream, a terminal that
cannot show a character. Control characters in names are shown, not sent to the terminal.
"""

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from neuroimagen.data_shards.common.limits import shortened

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""C0 without tab and newline, DEL, C1, and the characters that reorder or break lines: a terminal obeys them."""
_CURSOR = re.compile("\n*(?:\x1b\\[A)*")
"""What tqdm writes, by itself, to go from one bar to another."""


def printable(text: str) -> str:
    """The text with its control characters as escapes: "\\x1b[2J" is shown, and clears no screen."""
    return _CONTROL.sub(_escape, text)


def printable_line(text: str) -> str:
    """The same on one line: line breaks as spaces."""
    return printable(" ".join(text.splitlines()))


def label_text(text: str, limit: int = 60) -> str:
    """A name as a figure shows it: on one line, without control characters, cut to `limit` characters."""
    return shortened(printable_line(text), limit)


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


class GuardedStream(io.TextIOBase):
    """Writes to a stream as far as that goes. After the first failure nothing more is written, and nothing raises."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: Exception | None = None
        """What the first write that failed raised."""

    def write(self, text: str) -> int:
        if self.failure is None:
            shown = _without_controls(text)
            try:
                self._write(shown)
            except (OSError, ValueError) as error:  # ValueError: the stream is closed
                self._give_up(error)
        return len(text)

    def flush(self) -> None:
        if self.failure is None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._give_up(error)

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding or "ascii"
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def _give_up(self, error: Exception) -> None:
        self.failure = error
        # What Python still holds in its buffer would be written, and fail, at exit.
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)

    def isatty(self) -> bool:
        try:
            return self.failure is None and self._stream.isatty()
        except ValueError:
            return False

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)  # buffer, mode, name … of the stream


def _without_controls(text: str) -> str:
    if _CURSOR.fullmatch(text):
        return text
    # A progress bar begins and clears its line with a carriage return; within a text it would hide what stands before.
    inner = text.strip("\r")
    begin = len(text) - len(text.lstrip("\r"))
    return text[:begin] + printable(inner.replace("\r\n", "\n")) + text[begin + len(inner) :]


@contextlib.contextmanager
def guarded_output(program: str) -> Iterator[None]:
    """Guard standard output and error within this context. At its end, say what could not be written, and why.

    A reader that ended (`| head`, a pager that was closed) is no fault and is not mentioned.
    """
    if isinstance(sys.stdout, GuardedStream) and isinstance(sys.stderr, GuardedStream):
        yield
        return
    _fill_closed_descriptors()
    out, err = GuardedStream(_stream(sys.stdout, 1)), GuardedStream(_stream(sys.stderr, 2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            yield
        finally:
            out.flush()
            if out.failure is not None and not isinstance(out.failure, BrokenPipeError):
                reason = getattr(out.failure, "strerror", None) or out.failure
                err.write(f"{program}: standard output was cut off ({reason}). The work itself was not affected.\n")
            err.flush()


def _fill_closed_descriptors() -> None:
    """Open what the caller closed (`>&-`): else the next file that is opened gets its number, and what is printed."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)


def _stream(stream: TextIO | None, descriptor: int) -> TextIO:
    """The stream, or one that writes nowhere in place of one that was closed when Python started."""
    return stream or open(descriptor, "w", encoding="utf-8", closefd=False)
