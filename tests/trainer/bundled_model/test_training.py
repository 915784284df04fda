"""The command that trains the bundled model."""

import sys
from pathlib import Path

import pytest

from neuroimagen.trainer.bundled_model import training


def test_training_without_tokenizers_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert training.main(["--out", str(tmp_path / "model"), "--scale", "0.0005", "--only", "clip"]) == 1
    assert "pip install tokenizers" in capsys.readouterr().err


@pytest.mark.slow
def test_it_can_be_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A two-hundredth of the budget: every component trains, is kept, and the result is a whole model."""
    from diffusers import StableDiffusionImg2ImgPipeline

    out = tmp_path / "model"
    assert training.main(["--out", str(out), "--scale", "0.005"]) == 0
    StableDiffusionImg2ImgPipeline.from_pretrained(out)
    assert "classifier accuracy" in (out / "README.md").read_text()
    capsys.readouterr()
    assert training.main(["--out", str(out), "--scale", "0.005"]) == 0
    output = capsys.readouterr().out
    assert all(f"{name}: taken from" in output for name in training.COMPONENTS)
