"""`neuroimagen data info`: a data set in words, or a clear error."""

from pathlib import Path

import pytest

from neuroimagen.launch.cli import main


def test_it_says_what_a_data_set_holds(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["data", "info", str(data)]) == 0
    assert "sorrel, parachute" in capsys.readouterr().out
    assert main(["data", "info", str(tmp_path / "nowhere")]) == 1
    assert "no data set at" in capsys.readouterr().err
