"""`neuroimagen doctor`: one line per finding, and an exit code that says whether all is there."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from neuroimagen.launch.cli import main
from neuroimagen.launch.commands import doctor


@pytest.fixture(autouse=True)
def enough_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_DEMO_MEMORY_GB", 0.0)
    monkeypatch.setattr(doctor, "_DEMO_DISK_GB", 0.0)


def test_a_missing_package_is_named_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "_PACKAGES", ("torch", "no-such-package"))
    assert main(["doctor"]) == 1
    (missing,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("MISS")]
    assert missing.split()[1] == "no-such-package"
    assert missing.endswith("not installed  → pip install no-such-package, or run make setup in the repository")


def test_a_machine_that_has_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("ok   ") for line in lines)
    assert f"ok   torch          {torch.__version__}" in lines


def test_too_little_memory_and_disk_space(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "_DEMO_MEMORY_GB", 1e6)
    monkeypatch.setattr(doctor, "_DEMO_DISK_GB", 1e9)
    assert main(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert "→ the demo needs 1000000 GB of free memory\n" in printed
    assert "→ the demo needs 1000000000 GB of free disk space\n" in printed


def test_no_compiler_and_no_torch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    main(["doctor"])
    assert "not compiled, because there is no C++ compiler" in capsys.readouterr().out


def test_a_model_folder_is_described(
    tiny_diffusion_folder: Path, tiny_tower: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dino = tiny_tower("dinov2")
    assert main(["doctor", "--model", str(tiny_diffusion_folder), str(dino)]) == 0
    printed = capsys.readouterr().out
    assert "serves VAE latents, text states, image embeddings, training and sampling its U-Net\n" in printed
    assert "a DINOv2 model; serves image embeddings\n" in printed
    assert f"image tower dinov2: cache --towers NAME={dino}\n" in printed
    assert "torch" not in printed  # the machine is not asked about
    assert main(["doctor", "--model", "bundled"]) == 0
    assert "of Stable Diffusion's layout" in capsys.readouterr().out

    flux = tmp_path / "flux"
    (flux / "transformer").mkdir(parents=True)
    index = {"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]}
    (flux / "model_index.json").write_text(json.dumps(index))
    assert main(["doctor", "--model", str(flux)]) == 1
    printed = capsys.readouterr().out
    assert "MISS" in printed
    assert "FLUX (FluxPipeline); serves nothing" in printed
    assert "no training and sampling its U-Net: it has a transformer in place of a U-Net" in printed
    assert "missing: its transformer/ folder is empty: the download is not complete" in printed
