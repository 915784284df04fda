"""`neuroimagen data repack`: what it writes, and wrong usage."""

from pathlib import Path

import numpy as np
import pytest

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.launch.cli import main


def test_a_shuffled_copy_has_the_same_segments(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mixed"
    words = ["--out", str(out), "--order", "shuffled", "--seed", "3", "--workers", "2"]
    assert main(["data", "repack", str(data), *words]) == 0
    assert capsys.readouterr().out.endswith(f"data set: {out}\n")
    old, new = Dataset.open(data), Dataset.open(out)
    order = [new.stimuli.keys[stimulus] for stimulus in new.index.stimulus]
    assert order != sorted(order)
    for row, stimulus in enumerate(new.index.stimulus.tolist()):
        (before,) = np.flatnonzero(old.index.stimulus == stimulus).tolist()
        np.testing.assert_array_equal(new.eeg(row), old.eeg(before))


def test_no_threads_are_wrong_usage(data: Path, tmp_path: Path) -> None:
    assert main(["data", "repack", str(data), "--out", str(tmp_path / "new"), "--workers", "0"]) == 2
