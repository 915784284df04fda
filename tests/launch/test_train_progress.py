"""What a job says about itself while it runs."""

import json
from pathlib import Path

import pytest

from neuroimagen.launch import train
from neuroimagen.launch.train import Progress
from neuroimagen.trainer.run_folder import StageFolder


def test_off_a_terminal_progress_is_a_line_now_and_then(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = StageFolder(tmp_path, "saliency")
    folder.path.mkdir()
    progress = Progress(folder, 100)
    progress.update()  # nothing is logged yet
    speed = {"segments_per_second": 812.4, "data_wait_share": 0.0123, "memory_gib": 2.04}
    now = iter([0.0, 30.0, 90.0])
    monkeypatch.setattr(train.time, "monotonic", lambda: next(now))
    progress._said = 0.0
    with folder.metrics.open("w") as file:
        for step in (10, 20, 40):
            file.write(json.dumps({"step": step, "generator_loss": 1.5, "ssim": 0.3, **speed}) + "\n")
        file.write(json.dumps({"step": 40, "val_ssim": 0.25}) + "\n" + '{"step": 50, "half a li')
    progress.update()
    progress.close()
    assert capsys.readouterr().out.splitlines() == [
        "saliency: step 40 of 100, generator loss 1.5, 812 segments/s, 1.2 % waiting for data, 2.0 GiB, "
        "about 3 min left",
        "saliency: step 40, validation ssim 0.25",
    ]
