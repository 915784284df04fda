"""What rank 0 prints reaches its log and the launching process."""

import io
import sys
from pathlib import Path

import pytest

from neuroimagen.launch.nodes.logs import OUTPUT, PROGRESS, OutputTail, kept_output


def test_what_is_printed_goes_to_both_and_is_shown_line_by_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with kept_output(tmp_path):
        print("of an earlier start")
    assert capsys.readouterr().out == "of an earlier start\n"
    tail = OutputTail(tmp_path)
    with (tmp_path / OUTPUT).open("a", encoding="utf-8") as file:
        file.write("vae  made  12 × 2×4×8×8\nvae  che")
        file.flush()
        tail.update()
        assert capsys.readouterr().out == "vae  made  12 × 2×4×8×8\n"
        file.write("cked")
    tail.close()
    assert capsys.readouterr().out == "vae  checked"


def test_nothing_printed_is_nothing_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tail = OutputTail(tmp_path / "not there yet")
    tail.update()
    tail.close()
    assert capsys.readouterr().out == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_of_rank_0_is_shown_on_the_launchers_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / PROGRESS).write_text("of an earlier start")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    tail = OutputTail(tmp_path)
    tail.update()
    (tmp_path / PROGRESS).write_text("cache vae:  30%|███       | 3/10")
    (tmp_path / OUTPUT).write_text("image  kept\n")
    tail.update()
    tail.close()
    assert "cache vae:  30%|███       | 3/10" in terminal.getvalue()
    assert "earlier" not in terminal.getvalue()
    assert capsys.readouterr().out == "image  kept\n"
    assert not (tmp_path / PROGRESS).exists()
