"""What a pipeline is loaded from, and who says what EEG it takes."""

import shutil
from pathlib import Path

import huggingface_hub
import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.new_eeg.description import InputDescription
from neuroimagen.trainer.prediction.opening import open_pipeline


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*args: object, **options: object) -> str:
        raise AssertionError("the network was used")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)


def test_a_misspelt_path_is_no_repository(trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "first").mkdir()
    shutil.copy(trained.run / "config.yaml", runs / "first")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"there is no run runs/frist\. Runs near it: runs/first"):
        open_pipeline("runs/frist")
    with pytest.raises(UserError, match="revision is for repositories"):
        open_pipeline("runs/first", revision="main")
    with pytest.raises(UserError, match=r"runs/frist is no folder, and cannot be loaded .*the network was used"):
        open_pipeline("hf://runs/frist")


def test_the_run_says_its_input_else_its_data_set_does(trained, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    text = (trained.run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace(str(trained.data), str(tmp_path / "gone")))
    with pytest.raises(UserError, match=r"has no input\.json .*give it with data="):
        open_pipeline(run)
    expected = InputDescription.of(trained.dataset.metadata)
    assert open_pipeline(run, data=trained.data).description == expected
    expected.write(run)
    assert open_pipeline(run).description == expected
    (run / "config.yaml").write_text("model: {path: bundled}\n")
    (run / "input.json").unlink()
    with pytest.raises(UserError, match=r"has no input\.json and names no data set"):
        open_pipeline(run)


def test_damaged_folders_are_refused(trained, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(trained.run / "config.yaml", run)
    (run / "pipeline.json").write_text("{}")
    with pytest.raises(UserError, match=r"pipeline\.json is damaged"):
        open_pipeline(run)
