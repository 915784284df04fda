"""What rank 0 prints reaches its log and the launching process."""

from pathlib import Path

import pytest

from neuroimagen.launch.nodes.logs import MERGED, OUTPUT, LogTail, OutputTail, append_merged, kept_output


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


def test_lines_of_all_nodes_are_read_with_their_rank(tmp_path: Path) -> None:
    def rank_log(node: int, local: int, attempt: int = 0) -> Path:
        folder = tmp_path / f"node-{node}" / "abc_xyz" / f"attempt_{attempt}" / str(local)
        folder.mkdir(parents=True, exist_ok=True)
        return folder / "stdout.log"

    rank_log(0, 0).write_text("of an earlier start\n")
    tail = LogTail(tmp_path, [range(2), range(2, 3)])
    rank_log(0, 1).write_text("one\n\nhal")
    rank_log(1, 0).write_text("two\n")
    rank_log(1, 7).write_text("of no rank\n")
    assert sorted(tail.poll()) == [(1, "one"), (2, "two")]
    rank_log(1, 0, attempt=1).write_text("three\n")
    assert tail.poll() == [(2, "three")]
    assert tail.poll(last=True) == [(1, "hal")]
    append_merged(tmp_path, [(2, "text")], {2: "b"})
    assert (tmp_path / MERGED).read_text().endswith(" b rank 2 | text\n")
