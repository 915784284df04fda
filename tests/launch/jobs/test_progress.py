"""The progress that a training job shows while it runs."""

import json
from pathlib import Path

import pytest

from neuroimagen.launch.jobs import progress as module
from neuroimagen.launch.jobs.progress import Progress
from neuroimagen.trainer.runs.run_folder import StageFolder


def test_off_a_terminal_progress_is_a_line_now_and_then(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = StageFolder(tmp_path, "saliency")
    folder.path.mkdir()
    progress = Progress(folder, 100)
    progress.update()  # nothing is logged yet
    speed = {"segments_per_second": 812.4, "data_wait_share": 0.0123, "memory_gib": 2.04}
    now = iter([0.0, 30.0, 90.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(now))
    progress._last_line = 0.0
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


def test_a_log_that_a_resume_replaces_is_followed_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The new file is as long as the old one, and the old position is in the middle of one of its lines."""
    folder = StageFolder(tmp_path, "semantic")
    folder.path.mkdir()
    progress = Progress(folder, 100)

    def line(step: int, loss: float) -> str:
        return json.dumps({"step": step, "val_loss": loss}) + "\n"

    folder.metrics.write_text(line(10, 0.5) + line(20, 0.4))
    progress.update()
    resumed = tmp_path / "resumed.jsonl"
    resumed.write_text(line(10, 0.5) + line(20, 0.4321) + line(30, 0.2))
    resumed.replace(folder.metrics)
    progress.update()
    progress.close()
    assert capsys.readouterr().out.splitlines() == [
        "semantic: step 10, validation loss 0.5",
        "semantic: step 20, validation loss 0.4",
        "semantic: step 30, validation loss 0.2",
    ]
