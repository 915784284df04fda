"""`neuroimagen data`: what it prints, and its exit codes."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from neuroimagen.launch.cli import main
from neuroimagen.launch.commands.data_describe import preprocessing_steps


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Two classes × 5 pictures in EEGCVPR40's layout, one subject."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "raw study"
    names = [f"{wnid}_{number}" for wnid in ("n02389026", "n03888257") for number in range(5)]
    for name in names:
        path = folder / "images" / name.split("_")[0] / f"{name}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(buffer, "JPEG")
        path.write_bytes(buffer.getvalue())
    dataset = [{"eeg": torch.randn(4, 500), "image": image, "label": image // 5, "subject": 1} for image in range(10)]
    torch.save({"dataset": dataset, "labels": ["n02389026", "n03888257"], "images": names}, folder / "eeg.pth")
    return folder


def test_preprocessing_in_words() -> None:
    steps = {
        **{"band_hz": [1, 40], "resample_hz": 250.0, "baseline_s": [None, 0.0], "left_out_channels": ["T7", "T8"]},
        **{"detrend": True, "standardise": False, "clamp": 20.0, "unit": "microvolt"},
    }
    assert preprocessing_steps(steps) == [
        *["without T7, T8", "filtered 1–40 Hz", "resampled to 250 Hz"],
        *["less the mean of the start to 0 s", "detrend", "clamp ±20"],
    ]
    assert preprocessing_steps({}) == []


def _ingest(raw: Path, out: Path, *more: str) -> int:
    files = ["--eeg", str(raw / "eeg.pth"), "--images", str(raw / "images"), "--out", str(out)]
    return main(["data", "ingest", "eegcvpr40", *files, "--n-channels", "4", "--split", "by-image", *more])


def test_ingest_verify_info(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "data set"
    assert _ingest(raw, out, "--standardise", "--clamp", "5") == 0
    printed = capsys.readouterr().out
    assert "10 segments of 4 channels × 440 samples at 1000 Hz" in printed
    assert "standardise, clamp ±5" in printed
    assert f"data set: {out}" in printed
    assert main(["data", "verify", str(out)]) == 0
    assert "every byte is as written" in capsys.readouterr().out
    assert main(["data", "info", str(out)]) == 0
    assert "sorrel, parachute" in capsys.readouterr().out
    shard = out / "segments" / "00000.tar"
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(content)
    assert main(["data", "verify", str(out)]) == 1
    printed = capsys.readouterr().out
    assert "00000.tar: segment 000000000 at offset 512 is damaged" in printed
    assert printed.endswith(": 1 problem\n")


def test_mistakes_are_one_line_and_leave_nothing(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert _ingest(raw, out, "--split", "fold:0") == 2
    assert "give --splits" in capsys.readouterr().err
    assert _ingest(raw, out, "--subjects", "3") == 1
    assert "subject 3 is not in" in capsys.readouterr().err
    (raw / "eeg.pth").write_bytes((raw / "eeg.pth").read_bytes()[:5000])
    assert _ingest(raw, out) == 1
    error = capsys.readouterr().err
    assert "no complete file of torch.save" in error
    assert error.count("\n") == 1
    assert not out.exists()
    out.mkdir()
    (out / "x").write_text("")
    assert _ingest(raw, out) == 1
    assert "is not empty" in capsys.readouterr().err
    assert main(["data", "info", str(tmp_path / "nowhere")]) == 1
    assert "no data set at" in capsys.readouterr().err


def test_a_full_disk_is_one_line_and_leaves_nothing(
    raw: Path, small_disk: Callable[[int], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    place = small_disk(24 << 10)
    assert _ingest(raw, place / "data") == 1
    error = capsys.readouterr().err
    assert "No space left on device" in error
    assert error.count("\n") == 1
    assert list(place.iterdir()) == []


def test_wrong_words_exit_with_2(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["data"], ["data", "ingest"], ["data", "ingest", "eegcvpr40"], ["data", "verify", "a", "--what"]):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 2
    with pytest.raises(SystemExit):
        _ingest(raw, tmp_path / "out", "--window", "20-460")
    assert "'20-460' is not of the form A:B" in capsys.readouterr().err
    for size in ("nan", "inf", "-1", "0", "big"):
        with pytest.raises(SystemExit) as stopped:
            _ingest(raw, tmp_path / "out", "--shard-mib", size)
        assert stopped.value.code == 2
        assert f"'{size}' is not a size in MiB" in capsys.readouterr().err
    assert main(["data", "repack", str(raw), "--out", str(tmp_path / "new"), "--workers", "0"]) == 2
    for words in (["--window", "460:20"], ["--clamp", "-3"]):
        assert _ingest(raw, tmp_path / "out", *words) == 2


def test_a_missing_part_is_said_when_the_data_set_is_made(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _ingest(raw, tmp_path / "whole") == 0
    assert "note: no" not in capsys.readouterr().out
    folds = {"train": list(range(8)), "val": [], "test": [8, 9]}
    torch.save({"splits": [folds]}, raw / "splits.pth")
    assert _ingest(raw, tmp_path / "out", "--splits", str(raw / "splits.pth"), "--split", "single") == 0
    assert "note: no val part: training needs train and val" in capsys.readouterr().out


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    actions = [["data", action] for action in ("simulate", "ingest", "verify", "audit", "show", "info", "repack")]
    sources = [["data", "ingest", source] for source in ("eegcvpr40", "things-eeg2", "mne", "arrays")]
    for words in (["data"], *actions, *sources):
        with pytest.raises(SystemExit) as stopped:
            main([*words, "--help"])
        assert stopped.value.code == 0
        assert re.search(r"^examples?:", capsys.readouterr().out, re.MULTILINE), words


def test_metadata_is_plain_json(raw: Path, tmp_path: Path) -> None:
    assert _ingest(raw, tmp_path / "out") == 0
    metadata = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert metadata["n_channels"] == 4
    assert metadata["provenance"]["parameters"]["split"] == "by-image"
