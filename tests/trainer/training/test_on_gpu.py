"""The command line on a GPU beside the CPU: the same losses, latents and images up to rounding; exact resumes.

Random numbers do not depend on the device, so a GPU's run can be held against the CPU's step by step. `make test-gpu`
runs this; the slow tests run the same on the CPU twice, so that the tests themselves are known to work.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_study import PICTURE_KINDS, TEXT_KINDS, TRANSFORMER

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.reconstruction.manifest import read_image, read_reconstructions
from neuroimagen.trainer.stages.registry import STAGES

DEVICES = [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("gpu", marks=pytest.mark.gpu)]
FRESH = (
    *("saliency.initialise_from=null", "semantic.initialise_from=null", "semantic_detailed.initialise_from=null"),
    "prior.embeddings=naive",
)
STARTED = ("diffusion", "prior")
"""Stages that need another one, which the run `trained` has."""
STEPS = 4


def neuroimagen(*words: str | Path, device: str) -> None:
    """Run a command to its end, on this device."""
    command = [
        sys.executable,
        "-m",
        "neuroimagen.launch.cli",
        *map(str, words),
        *(["--cpu"] if device == "cpu" else []),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def train(recipe: Path, stage: str, run: Path, *overrides: str, device: str, resume: bool = False) -> Path:
    """Train a few steps, logged and kept one by one; returns the stage's folder."""
    settings = {"steps": STEPS, "log_every": 1, "checkpoint_every": 2, "validate_every": 4, "warmup_steps": 0}
    words = [*(TRANSFORMER if stage == "masked" else ()), *FRESH, *overrides]
    words += [f"{stage}.{key}={value}" for key, value in settings.items()]
    options = ["--num-ranks", "1", *(["--resume"] if resume else []), "--set", *words]
    neuroimagen("train", stage, "--config", recipe, "--run", run, *options, device=device)
    return run / stage


def losses(stage: Path) -> np.ndarray:
    """[steps, losses of the stage's phases] as logged."""
    lines = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if any(key.endswith("loss") and not key.startswith("val_") for key in line)]
    return np.array([[line[key] for key in sorted(line) if key.endswith("loss")] for line in steps])


@pytest.fixture(scope="module")
def trained(recipe_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose semantic, saliency and alignment stages are there, trained on the CPU. Read only."""
    run = tmp_path_factory.mktemp("trained") / "run"
    for stage in ("semantic", "saliency", "alignment"):
        train(recipe_path, stage, run, device="cpu")
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(trained, tmp_path / "run")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("stage", STAGES.names())
def test_losses_are_the_cpu_s(stage: str, device: str, recipe_path: Path, run: Path, tmp_path: Path) -> None:
    """In float32 the first loss differs by rounding (of TF32 convolutions on a GPU), later ones by more."""
    reference = run if stage in STARTED else tmp_path / "reference"
    other = shutil.copytree(run, tmp_path / "other") if stage in STARTED else tmp_path / "other"
    precision = f"{stage}.precision=fp32"
    expected = losses(train(recipe_path, stage, reference, precision, device="cpu"))
    found = losses(train(recipe_path, stage, other, precision, device=device))
    assert expected.shape == found.shape == (STEPS, 2 if stage == "saliency" else 1)
    np.testing.assert_allclose(found[0], expected[0], rtol=5e-3)
    np.testing.assert_allclose(found, expected, rtol=5e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("stage", STAGES.names())
@pytest.mark.parametrize("setting", ["precision=bf16", "precision=fp16", "compile=true"])
def test_other_precisions_are_close(stage: str, setting: str, recipe_path: Path, run: Path, tmp_path: Path) -> None:
    reference = run if stage in STARTED else tmp_path / "reference"
    other = shutil.copytree(run, tmp_path / "other") if stage in STARTED else tmp_path / "other"
    expected = losses(train(recipe_path, stage, reference, f"{stage}.precision=fp32", device="gpu"))
    found = losses(train(recipe_path, stage, other, f"{stage}.{setting}", device="gpu"))
    np.testing.assert_allclose(found[0], expected[0], rtol=5e-2)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("stage", STAGES.names())
def test_a_resumed_run_ends_with_the_same_bits(
    stage: str, device: str, recipe_path: Path, run: Path, tmp_path: Path
) -> None:
    """A run whose last steps were lost, and one that streams the data that the other keeps on the device."""
    copied = shutil.copytree(run, tmp_path / "streamed") if stage in STARTED else tmp_path / "streamed"
    streamed = train(recipe_path, stage, copied, "data.resident_gib=0", device=device)
    whole = train(
        recipe_path, stage, run if stage in STARTED else tmp_path / "whole", "data.resident_gib=1", device=device
    )
    expected = {path.relative_to(whole): load_file(path) for path in whole.glob("export/**/*.safetensors")}
    assert expected
    checkpoints = whole / "checkpoints"
    shutil.rmtree(whole / "export")
    shutil.rmtree(checkpoints / f"step-{STEPS:08d}")
    (checkpoints / "latest").write_text("step-00000002")
    train(recipe_path, stage, whole.parent, "data.resident_gib=1", device=device, resume=True)
    for name, tensors in expected.items():
        for other in (whole, streamed):
            found = load_file(other / name)
            assert found.keys() == tensors.keys()
            assert all(torch.equal(found[key], tensor) for key, tensor in tensors.items()), other / name


@pytest.mark.parametrize("device", DEVICES)
def test_latents_are_the_cpu_s(device: str, study_folder: Path, tiny_diffusion_folder: Path, tmp_path: Path) -> None:
    """Stored in float32, for which convolutions are exact on a GPU too."""
    found = {}
    for where in ("cpu", device):
        data = shutil.copytree(study_folder, tmp_path / f"data-{len(found)}", ignore=shutil.ignore_patterns("latents"))
        kinds = ["--kinds", *PICTURE_KINDS, *TEXT_KINDS, "--dtype", "float32", "--check"]
        neuroimagen("cache", "--data", data, "--model", tiny_diffusion_folder, *kinds, device=where)
        dataset = Dataset.open(data)
        stores = {
            kind: dataset.latents(kind, model=str(tiny_diffusion_folder)) for kind in (*PICTURE_KINDS, *TEXT_KINDS)
        }
        found[data] = {kind: store.get(np.arange(len(store))) for kind, store in stores.items()}
    expected, others = found.values()
    for kind, latents in expected.items():
        assert torch.allclose(others[kind], latents, rtol=1e-3, atol=1e-4 * float(latents.abs().max())), kind


@pytest.mark.parametrize("device", DEVICES)
def test_pictures_are_the_cpu_s(device: str, run: Path, tmp_path: Path) -> None:
    """From the same noise, in float32; rounding is one or two grey levels."""
    other = shutil.copytree(run, tmp_path / "other")
    rows = "reconstruct.conditions=[full,semantic_only,saliency_only,oracle_class,vae_round_trip]"
    for folder, where in ((run, "cpu"), (other, device)):
        neuroimagen("reconstruct", "--run", folder, "--set", rows, "reconstruct.steps=4", device=where)
    expected, found = read_reconstructions(run), read_reconstructions(other)
    assert expected.keys() == found.keys()
    for row, pictures in expected.items():
        for here, there in zip(pictures.files, found[row].files, strict=True):
            assert here.name == there.name
            difference = read_image(here).astype(float) - read_image(there)
            assert np.abs(difference).mean() < 2, (row, here.name)
