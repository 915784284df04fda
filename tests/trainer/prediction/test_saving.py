"""A saved pipeline draws the same images, from a folder alone; the hub is a fake."""

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from tiny_families import write_trained_adapters

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.prediction.pipeline import Pipeline


@pytest.fixture
def eeg(trained) -> np.ndarray:
    return np.stack([trained.dataset.eeg(row) for row in trained.dataset.rows("test")[:2]])


def _names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_saved_pipeline_draws_the_same_images(trained, eeg: np.ndarray, tmp_path: Path) -> None:
    (trained.model / "unet" / "old.bin").write_bytes(b"pickle")
    pipeline = Pipeline.from_pretrained(trained.run, condition="image_only", device="cpu", settings=("seed=3",))
    expected = pipeline(eeg, preprocessed=True).images
    pipeline.save_pretrained(tmp_path / "lean")
    pipeline.save_pretrained(tmp_path / "whole", copy_model=True)
    (trained.model / "unet" / "old.bin").unlink()
    lean, whole = _names(tmp_path / "lean"), _names(tmp_path / "whole")
    assert {name.split("/")[0] for name in lean} == {
        *("README.md", "config.yaml", "input.json", "pipeline.json", "alignment", "prior")
    }
    assert whole - lean == {f"model/{name}" for name in _names(trained.model) if not name.endswith(".bin")}
    moved = tmp_path / "elsewhere"
    shutil.move(tmp_path / "whole", moved)
    for folder in (tmp_path / "lean", moved):
        again = Pipeline.from_pretrained(folder, device="cpu")
        assert again.condition == "image_only"
        assert again.input == pipeline.input
        images = again(eeg, preprocessed=True).images
        assert [image.tobytes() for image in images] == [image.tobytes() for image in expected]
    # What was loaded can be saved again, with the copy of the model.
    again.save_pretrained(tmp_path / "second")
    assert _names(tmp_path / "second") == whole
    with pytest.raises(UserError, match="exists and is not empty"):
        again.save_pretrained(tmp_path / "second")


def test_an_adapter_that_the_run_trained_is_drawn_with_and_saved(trained, eeg: np.ndarray, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained.run, tmp_path / "run"))
    shutil.rmtree(run / "diffusion")
    write_trained_adapters(run / "diffusion" / "export", trained.model, "ip_adapter", seed=9)
    before, pipeline = (
        Pipeline.from_pretrained(path, condition="image_only", device="cpu") for path in (trained.run, run)
    )
    expected = [image.tobytes() for image in pipeline(eeg, preprocessed=True).images]
    assert expected != [image.tobytes() for image in before(eeg, preprocessed=True).images]
    pipeline.save_pretrained(tmp_path / "saved")
    assert "IP-Adapter as the diffusion stage trained it" in (tmp_path / "saved" / "README.md").read_text()
    again = Pipeline.from_pretrained(tmp_path / "saved", device="cpu")
    assert [image.tobytes() for image in again(eeg, preprocessed=True).images] == expected
    # Without an image embedding the adapter does not matter, and is not saved.
    Pipeline.from_pretrained(run, condition="semantic_only", device="cpu").save_pretrained(tmp_path / "text")
    assert "diffusion" not in {name.split("/")[0] for name in _names(tmp_path / "text")}
    assert Pipeline.from_pretrained(tmp_path / "text", device="cpu").condition == "semantic_only"


def test_another_diffusion_model_is_refused(trained, tiny_diffusion_folder: Path, tmp_path: Path) -> None:
    Pipeline.from_pretrained(trained.run, condition="semantic_only", device="cpu").save_pretrained(tmp_path / "saved")
    with pytest.raises(UserError, match=r"not the diffusion model that .* was saved with"):
        Pipeline.from_pretrained(tmp_path / "saved", model=tiny_diffusion_folder)  # it has no IP-Adapter


def test_upload_and_download(trained, eeg: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this machine is in what is uploaded, and what is downloaded draws the same images."""
    hub, calls = tmp_path / "hub", []

    class Hub:
        def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> str:
            calls.append((repo_id, private))
            return f"https://hub/{repo_id}"

        def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
            shutil.copytree(folder_path, hub / repo_id)

    def download(repo_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        assert "*.safetensors" in allow_patterns
        assert not any(pattern in ("*", "*.bin", "*.py") for pattern in allow_patterns)
        if not (hub / repo_id).is_dir():
            raise OSError("404: no such repository")
        return str(hub / repo_id)

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    pipeline = Pipeline.from_pretrained(trained.run, condition="semantic_only", device="cpu")
    assert pipeline.push_to_hub("lab/study") == "https://hub/lab/study"
    assert calls == [("lab/study", True)]
    for path in (hub / "lab" / "study").rglob("*"):
        if path.suffix in (".json", ".yaml", ".md"):
            assert str(trained.model.parent) not in path.read_text()
    with pytest.raises(UserError, match=r"elsewhere now, give its folder with model="):
        Pipeline.from_pretrained("lab/study")
    again = Pipeline.from_pretrained("lab/study", model=trained.model, device="cpu")
    first, second = (each(eeg, preprocessed=True).images for each in (pipeline, again))
    assert [image.tobytes() for image in first] == [image.tobytes() for image in second]
    with pytest.raises(UserError, match=r"lab/none is no folder, and cannot be loaded .*404"):
        Pipeline.from_pretrained("lab/none")

    def refused(self: Any, repo_id: str, **options: Any) -> str:
        raise OSError("401: who are you")

    monkeypatch.setattr(Hub, "create_repo", refused)
    with pytest.raises(UserError, match=r"lab/study was not uploaded \(OSError: 401.*hf auth login"):
        pipeline.push_to_hub("lab/study")


def test_stages_outside_of_the_folder_are_not_saved(trained, tmp_path: Path) -> None:
    """A configuration from elsewhere must not decide where files are written."""
    shutil.copytree(trained.run / "semantic", tmp_path / "semantic")
    run = tmp_path / "run"
    run.mkdir()
    text = (trained.run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("reconstruct:", "reconstruct:\n  semantic: ../semantic"))
    pipeline = Pipeline.from_pretrained(run, condition="semantic_only", device="cpu")
    with pytest.raises(UserError, match="so it cannot be saved with it"):
        pipeline.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_saved_says_what_it_is(trained, tmp_path: Path) -> None:
    Pipeline.from_pretrained(trained.run, condition="image_only", device="cpu").save_pretrained(tmp_path / "saved")
    about = json.loads((tmp_path / "saved" / "pipeline.json").read_text())
    assert (about["condition"], about["made_of"]) == ("image_only", "image embedding (through the prior)")
