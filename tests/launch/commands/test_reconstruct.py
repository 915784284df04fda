"""`neuroimagen reconstruct` as a user calls it, on a run of untrained networks."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from neuroimagen.launch.cli import main
from neuroimagen.trainer.networks.encoders.registry import encoder_config
from neuroimagen.trainer.networks.gan import SaliencyModel
from neuroimagen.trainer.networks.semantic import SemanticModel
from neuroimagen.trainer.reconstruction.manifest import read_reconstructions


@pytest.fixture
def run(tiny_dataset_folder: Path, tiny_diffusion_folder: Path, tmp_path: Path) -> Path:
    """A run with a recipe and two exports."""
    folder = tmp_path / "run"
    network = {
        "n_channels": 6,
        "n_samples": 20,
        "encoder": dataclasses.asdict(encoder_config(feature_size=8, kernel_samples=5, stride_samples=2)),
    }
    torch.manual_seed(0)
    SaliencyModel(encoder=network, noise_size=5, image_size_px=16, width=16).save_pretrained(folder / "saliency/export")
    semantic = SemanticModel(encoder=network, text_shape=(24, 32), hidden_size=8, head_dropout=0.0)
    semantic.save_pretrained(folder / "semantic/export")
    recipe = {
        "data": {"path": str(tiny_dataset_folder)},
        "model": {"path": str(tiny_diffusion_folder)},
        "reconstruct": {"steps": 4, "guidance": 2.0},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def test_makes_what_the_run_allows_and_keeps_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reconstruct", "--run", str(run)]) == 0
    output = capsys.readouterr().out
    assert output.count("made in") == 8
    assert "full_detailed          left out:" in output
    rows = read_reconstructions(run)
    assert set(rows) == {
        "full",
        "semantic_only",
        "saliency_only",
        "oracle_class",
        "random_class",
        "perfect_saliency",
        "vae_round_trip",
        "mean_image",
    }
    assert all(len(row) == 6 for row in rows.values())
    assert main(["reconstruct", "--run", str(run)]) == 0
    assert capsys.readouterr().out.count("kept") == 8


def test_options_change_the_recipe(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["reconstruct", "--run", str(run), "--rows", "full", "--strength", "0.5"]
    assert main([*words, "--set", "reconstruct.samples=2"]) == 0
    assert len(read_reconstructions(run)["full"]) == 12
    assert main([*words, "--guidance", "3"]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main([*words, "--guidance", "3", "--overwrite"]) == 0
    settings = read_reconstructions(run)["full"].settings
    assert (settings["strength"], settings["guidance"], settings["samples"]) == (0.5, 3.0, 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rows", "everything"], "full"),
        (["--strength", "2"], "strength must lie in"),
        (["--set", "reconstruct.guidence=3"], "did you mean 'reconstruct.guidance'"),
        (["--set", "data.path=nowhere"], "nowhere"),
        (["--set", "model.path=nowhere"], r"nowhere"),
    ],
)
def test_mistakes_are_one_line(run: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reconstruct", "--run", str(run), *words]) == 1
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (run / "reconstructions").exists()


def test_untrained_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(run / "saliency")
    assert main(["reconstruct", "--run", str(run)]) == 1
    assert "saliency/export does not exist. Train that stage first." in capsys.readouterr().err
    assert main(["reconstruct", "--run", str(tmp_path / "no")]) == 1
    assert "there is no run" in capsys.readouterr().err


def test_a_full_disk_is_one_line_and_the_row_is_not_there(
    run: Path, small_disk: Callable[[int], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    page = 4096
    used = sum(-(-path.stat().st_size // page) * page for path in run.rglob("*") if path.is_file())
    full = shutil.copytree(run, small_disk(used + 4 * page) / "run")
    assert main(["reconstruct", "--run", str(full), "--rows", "mean_image", "vae_round_trip"]) == 1
    error = capsys.readouterr().err
    assert "No space left on device" in error
    assert error.count("\n") == 1
    assert "vae_round_trip" not in read_reconstructions(full)
