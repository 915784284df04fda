"""`neuroimagen data info`: a data set in words, or a clear error."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from source_files import write_image, write_table

from neuroimagen.launch.cli import main


def test_it_says_what_a_data_set_holds(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["data", "info", str(data)]) == 0
    assert "sorrel, parachute" in capsys.readouterr().out
    assert main(["data", "info", str(tmp_path / "nowhere")]) == 1
    assert "no data set at" in capsys.readouterr().err


def test_it_says_what_looks_odd(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_odd_arrays(tmp_path)
    assert main(["data", "ingest", *arrays_words(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "note: 1 classes differ from another in spelling only: 'Cup' and 'cup'" in printed
    assert "note: 5 of 6 test segments share samples with train segments" in printed
    assert main(["data", "info", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "note: 1 classes differ from another in spelling only: 'Cup' and 'cup'" in printed
    assert "problem: 5 of 6 test segments share samples with train segments" in printed
    assert "look like EOG (HEOG; by name)" in printed
    assert "this is EEG in volts" in printed


def write_odd_arrays(folder: Path) -> None:
    """36 segments of 1 s, one every 0.5 s, in volts, one channel of the eyes, one class in two spellings."""
    np.save(folder / "eeg.npy", np.random.default_rng(0).standard_normal((36, 3, 100)) * 2e-5)
    rows = []
    for row in range(36):
        write_image(folder / "images" / f"{row}.png", row)
        split = ("train", "train", "train", "train", "val", "test")[row % 6]
        name = "Cup" if row % 2 else "cup"
        rows.append({"image": f"{row}.png", "class": name, "split": split, "recording": "r", "onset_s": row / 2})
    write_table(folder / "table.csv", rows)


def arrays_words(folder: Path) -> list[str]:
    words = ["arrays", "--eeg", "eeg.npy", "--table", "table.csv", "--images", "images", "--out", "out"]
    paths = [str(folder / word) if previous.startswith("--") else word for previous, word in pairwise(["", *words])]
    return [*paths, "--sfreq", "100", "--channel-names", "Cz", "Pz", "HEOG"]
