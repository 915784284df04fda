"""What rank 0 prints reaches its log and the launching process."""

from pathlib import Path

import pytest

from neuroimagen.launch.nodes.logs import OUTPUT, OutputTail, kept_output


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
