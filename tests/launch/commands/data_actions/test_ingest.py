"""`neuroimagen data ingest`: what it prints, and what a user's mistake leaves."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

Ingest = Callable[..., int]


def test_it_describes_the_data_set_and_says_where_it_is(
    ingest: Ingest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert ingest(out, "--standardise", "--clamp", "5") == 0
    printed = capsys.readouterr().out
    assert "10 segments of 4 channels × 440 samples at 1000 Hz" in printed
    assert "standardise, clamp ±5" in printed
    assert printed.endswith(f"data set: {out}\nnext: neuroimagen recipe --data {out} --model bundled\n")
    metadata = json.loads((out / "dataset.json").read_text())
    assert metadata["n_channels"] == 4
    assert metadata["provenance"]["parameters"]["split"] == "by-image"


def test_notes_of_the_source_are_printed(
    ingest: Ingest, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (raw / "images" / "n02389026" / "n02389026_0.JPEG").unlink()
    assert ingest(tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "note: 1 of 10 images are missing or unreadable: n02389026_0 (missing)\n" in printed
    assert "note: 1 of 10 segments dropped: image missing or unreadable\n" in printed


def test_mistakes_are_one_line_and_leave_nothing(
    ingest: Ingest, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert ingest(out, "--split", "fold:0") == 2
    assert "give --splits" in capsys.readouterr().err
    assert ingest(out, "--subjects", "3") == 1
    assert "subject 3 is not in" in capsys.readouterr().err
    (raw / "eeg.pth").write_bytes((raw / "eeg.pth").read_bytes()[:5000])
    assert ingest(out) == 1
    error = capsys.readouterr().err
    assert "not a complete file of torch.save" in error
    assert error.count("\n") == 1
    assert not out.exists()
    out.mkdir()
    (out / "x").write_text("")
    assert ingest(out) == 1
    assert "is not empty" in capsys.readouterr().err


def test_a_full_disk_is_one_line_and_leaves_nothing(
    ingest: Ingest, small_disk: Callable[[int], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    place = small_disk(24 << 10)
    assert ingest(place / "data") == 1
    error = capsys.readouterr().err
    assert "No space left on device" in error
    assert error.count("\n") == 1
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("size", ["nan", "inf", "-1", "0", "big"])
def test_impossible_shard_sizes_are_wrong_usage(
    ingest: Ingest, tmp_path: Path, capsys: pytest.CaptureFixture[str], size: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        ingest(tmp_path / "out", "--shard-mib", size)
    assert stopped.value.code == 2
    assert f"'{size}' is not a size in MiB" in capsys.readouterr().err


def test_impossible_windows_and_clamps_are_wrong_usage(
    ingest: Ingest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        ingest(tmp_path / "out", "--window", "20-460")
    assert "'20-460' is not of the form A:B" in capsys.readouterr().err
    for words in (["--window", "460:20"], ["--clamp", "-3"]):
        assert ingest(tmp_path / "out", *words) == 2


def test_a_missing_split_is_reported_when_the_data_set_is_made(
    ingest: Ingest, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ingest(tmp_path / "whole") == 0
    assert "note: no" not in capsys.readouterr().out
    folds = {"train": list(range(8)), "val": [], "test": [8, 9]}
    torch.save({"splits": [folds]}, raw / "splits.pth")
    assert ingest(tmp_path / "out", "--splits", str(raw / "splits.pth"), "--split", "single") == 0
    assert "note: no val split: training needs train and val" in capsys.readouterr().out
