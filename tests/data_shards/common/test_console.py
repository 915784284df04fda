"""What is printed cannot end a job, nor command the terminal."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroimagen.data_shards.common.console import GuardedStream, guarded_output, label_text, printable, printable_line

PRINTS = """
from neuroimagen.data_shards.common.console import guarded_output
import os, sys
with guarded_output("program"):
    for _ in range(20000): print("a line of text that fills the buffer")
    print("on standard error", file=sys.stderr)
open(sys.argv[1], "w").write("done")
"""


class Failing(io.StringIO):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error
        self.attempts = 0

    def write(self, text: str) -> int:
        self.attempts += 1
        raise self.error


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(28, "No space left on device"), ValueError("closed")])
def test_a_stream_that_fails_is_not_tried_again(error: Exception) -> None:
    failing = Failing(error)
    stream = GuardedStream(failing)
    assert print("a", "b", file=stream) is None
    stream.flush()
    assert failing.attempts == 1
    assert stream.failure is error
    assert not stream.isatty()


@pytest.mark.parametrize(
    ("redirection", "message"),
    [
        ("| head -1", "on standard error"),
        ("> /dev/full", "on standard error\nprogram: standard output was cut off (No space left on device). The work"),
        (">&-", "on standard error"),
        ("2>&-", ""),
        ("2> /dev/full > /dev/full", ""),
        (">&- 2>&- <&-", ""),
    ],
)
def test_the_job_goes_on_to_its_end(redirection: str, message: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    command = f'"$0" -c "$1" "$2" {redirection}; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(
        ["bash", "-c", command, sys.executable, PRINTS, str(mark)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stderr.startswith(message)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert mark.read_text() == "done"


def test_characters_that_the_terminal_lacks_are_escaped() -> None:
    content = io.BytesIO()
    stream = GuardedStream(io.TextIOWrapper(content, encoding="latin-1", write_through=True))
    print("é → \udcff", file=stream)
    assert content.getvalue() == b"\xe9 \\u2192 \\udcff\n"


@given(st.text())
def test_no_control_character_reaches_the_terminal(text: str) -> None:
    written = io.StringIO()
    GuardedStream(written).write(f"name: {text} end")
    reached = written.getvalue().removeprefix("name: ")
    assert not any(
        (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 or "\u202a" <= c <= "\u202e" for c in reached
    )
    assert printable(text) == printable(printable(text))


def test_a_progress_bar_goes_through_and_a_name_does_not() -> None:
    written = io.StringIO()
    stream = GuardedStream(written)
    for text in ("\r 50%|###  |", "\n\x1b[A", "\r"):
        stream.write(text)
    assert written.getvalue() == "\r 50%|###  |\n\x1b[A\r"
    assert printable("\x1b[2Jx\rshown") == "\\x1b[2Jx\\x0dshown"
    assert printable_line("a\nb") == "a b"
    assert label_text("x" * 100) == "x" * 59 + "…"


def test_guarding_twice_is_guarding_once() -> None:
    before = sys.stdout
    with guarded_output("a"):
        outer = sys.stdout
        with guarded_output("b"):
            assert sys.stdout is outer
    assert sys.stdout is before
