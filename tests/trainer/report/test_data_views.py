"""Views of a data set: the files that show them."""

import re
from pathlib import Path

import pytest
import simulated_run
from PIL import Image

from neuroimagen.launch.cli import main
from neuroimagen.trainer.report import plots


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("views") / "data"
    simulated_run.write_dataset(folder)
    return folder


@pytest.mark.parametrize("suffix", ["html", "png"])
def test_the_command_writes_one_file_that_needs_no_other(data: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"views.{suffix}"
    assert main(["data", "show", str(data), "--out", str(out)]) == 0
    if suffix == "png":
        with Image.open(out) as image:
            assert image.height > image.width > 800
        return
    text = out.read_text(encoding="utf-8")
    # segments, classes, subjects, scalp maps, spectra; channels, segments per subject
    assert text.count("<svg") == 7
    assert text.count("amplitude, data set's units") == 3
    assert re.search(r"All on one scale: red is positive, blue negative, up to ±\d", text)
    assert "http://" not in text.replace("http://www.w3.org", "")
    for stand_in in (plots.INK, plots.MUTED, plots.GRID, *plots.SERIES):
        assert stand_in not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "views.pdf"], "ends with .html or .png"),
        (["--out", "v.png", "--classes", "unicorn"], "'unicorn' is not in the data set"),
        (["--out", "v.png", "--channel", "Z9"], "no channel 'Z9'"),
        (["--out", "v.png", "--subjects", "7"], "subject 7"),
    ],
)
def test_mistakes_are_one_line(
    data: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "show", str(data), *arguments]) == 1
    assert message in capsys.readouterr().err
