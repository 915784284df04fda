"""Progress bars appear on a terminal, on rank 0, and nowhere else."""

import io
import sys
from pathlib import Path

import pytest

from neuroimagen.data_shards.common.progress import PROGRESS_VARIABLE, bar, track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "rank", "is_shown"), [(Terminal(), "0", True), (Terminal(), "1", False), (io.StringIO(), "0", False)]
)
def test_a_bar_is_shown_on_a_terminal_of_rank_0_only(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, rank: str, is_shown: bool
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("RANK", rank)
    assert list(track(range(5), total=5, desc="segments")) == [0, 1, 2, 3, 4]
    assert ("segments" in stream.getvalue()) == is_shown


def test_a_rank_without_a_terminal_keeps_its_line_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "progress.txt"
    monkeypatch.setenv(PROGRESS_VARIABLE, str(path))
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with bar(10, desc="draw full", unit="batch") as shown:
        shown.update(3)
        shown.refresh()
        line = path.read_text()
        assert line.startswith("draw full:  30%")
        assert "3/10" in line
        assert not {"\r", "\n", "\x1b"} & set(line)
    assert path.read_text() == ""  # a bar that is over is gone
    monkeypatch.setenv("RANK", "1")
    path.unlink()
    assert list(track(range(3), total=3)) == [0, 1, 2]
    assert not path.exists()


def test_a_line_that_cannot_be_written_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROGRESS_VARIABLE, str(tmp_path / "gone" / "progress.txt"))
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert list(track(range(3), total=3)) == [0, 1, 2]


def test_a_job_that_is_left_early_takes_its_bar_along(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    for item in track(range(5), total=5, desc="segments"):
        if item == 2:
            break
    assert stream.getvalue().endswith("\r")
