"""One rank of a shared command: the status that it leaves, and the output that it keeps."""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.progress import PROGRESS_VARIABLE, bar
from neuroimagen.launch import rank
from neuroimagen.launch.nodes.logs import OUTPUT, PROGRESS
from neuroimagen.trainer.runs.rank_status import read_statuses

Run = Callable[[Sequence[str]], int]


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """main() sets signal handlers, asks the kernel for a death signal, and skips the interpreter's shutdown."""
    monkeypatch.setattr(rank, "end_with_parent", lambda signum: None)
    monkeypatch.setattr(os, "_exit", sys.exit)
    monkeypatch.setenv(PROGRESS_VARIABLE, "")  # main() sets it; it is as before after the test
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    yield
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


def run(folder: Path, command: Run, monkeypatch: pytest.MonkeyPatch, *, number: int = 0) -> BaseException:
    """Run `command` as rank `number` of `cache`; returns what main() ended with."""
    monkeypatch.setattr(rank, "run_words", command)
    monkeypatch.setattr(sys, "argv", ["rank", str(folder), "cache", "--data", "d"])
    monkeypatch.setenv("RANK", str(number))
    try:
        rank.main()
    except BaseException as ended:
        return ended
    return SystemExit(0)  # PyTorch's `record` returns where the command exits with 0


def test_a_rank_that_is_done_says_so_and_rank_0_keeps_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def command(words: Sequence[str]) -> int:
        assert list(words) == ["cache", "--data", "d"]
        print("vae made")
        with bar(4, desc="cache vae") as shown:
            shown.update(1)
            shown.refresh()
            bars.append((tmp_path / PROGRESS).read_text() if (tmp_path / PROGRESS).exists() else "")
        (tmp_path / PROGRESS).unlink(missing_ok=True)
        return 0

    bars: list[str] = []

    for number in (0, 1):
        ended = run(tmp_path, command, monkeypatch, number=number)
        assert isinstance(ended, SystemExit)
        assert ended.code == 0
    assert [(status.rank, status.state) for status in read_statuses(tmp_path)] == [(0, "done"), (1, "done")]
    assert (tmp_path / OUTPUT).read_text() == "vae made\n"
    assert bars[0].startswith("cache vae:  25%")  # for the launcher, who shows it
    assert bars[1] == ""


@pytest.mark.parametrize(
    ("error", "state", "message"),
    [
        (UserError("no data set at d"), "refused", "no data set at d"),
        (OSError("disk full"), "refused", "disk full"),
        (ZeroDivisionError("by zero"), "failed", "ZeroDivisionError: by zero"),
    ],
)
def test_an_error_is_left_for_the_launcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, state: str, message: str
) -> None:
    def command(words: Sequence[str]) -> int:
        raise error

    assert run(tmp_path, command, monkeypatch) is error
    assert [(status.state, status.message) for status in read_statuses(tmp_path)] == [(state, message)]


def test_an_exit_code_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = run(tmp_path, lambda words: 3, monkeypatch)
    assert isinstance(ended, SystemExit)
    assert ended.code == 3
    assert read_statuses(tmp_path)[0].message == "cache ended with code 3"


def test_a_stop_signal_ends_it_with_a_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[str] = []

    def leave(code: int) -> None:
        states.append(read_statuses(tmp_path)[0].state)
        sys.exit(code)

    def command(words: Sequence[str]) -> int:
        states.append(read_statuses(tmp_path)[0].state)
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("the signal did not end it")

    monkeypatch.setattr(os, "_exit", leave)
    run(tmp_path, command, monkeypatch)
    assert states == ["running", "stopped"]
