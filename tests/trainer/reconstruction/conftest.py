"""Reconstructors on untrained networks, and the tiny latent diffusion model."""

import dataclasses
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from image_run import write_image_run
from untrained_run import write_untrained_exports

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.reconstruction.config import ReconstructConfig
from neuroimagen.trainer.reconstruction.pipelines.generator import Generator
from neuroimagen.trainer.reconstruction.reconstructor import Reconstructor

CONFIG = ReconstructConfig(steps=4, batch_size=3, guidance=2.0, strength=0.75)


@pytest.fixture(scope="session")
def untrained_run(tmp_path_factory: pytest.TempPathFactory, tiny_diffusion_folder: Path) -> Path:
    """A run with the exports of untrained saliency, semantic and diffusion stages for the tiny data set and model. Read
    only.
    """
    return write_untrained_exports(tmp_path_factory.mktemp("runs") / "run", tiny_diffusion_folder)


@pytest.fixture
def make(
    untrained_run: Path, tiny_dataset_folder: Path, tiny_diffusion_folder: Path, tmp_path: Path
) -> Callable[..., Reconstructor]:
    """make(**changes of CONFIG) → a Reconstructor in a run of this test's own."""
    run = shutil.copytree(untrained_run, tmp_path / "run")

    def make(**changes: object) -> Reconstructor:
        config = dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]
        return Reconstructor(run, Dataset.open(tiny_dataset_folder), tiny_diffusion_folder, config)

    return make


@pytest.fixture(scope="session")
def image_folders(
    tmp_path_factory: pytest.TempPathFactory, tiny_dataset_folder: Path, tiny_diffusion_folder: Path
) -> tuple[Path, Path, Path]:
    """Run, data set and model that allow every condition. Read only."""
    return write_image_run(tmp_path_factory.mktemp("image"), data=tiny_dataset_folder, model=tiny_diffusion_folder)


@pytest.fixture
def make_image(image_folders: tuple[Path, Path, Path], tmp_path: Path) -> Callable[..., Reconstructor]:
    """make_image(**changes of CONFIG) → a Reconstructor that allows every condition, in a run of this test's own."""
    source, data, model = image_folders
    run = Path(shutil.copytree(source, tmp_path / "image_run"))
    dataset = Dataset.open(data)

    def make(**changes: object) -> Reconstructor:
        config = dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]
        return Reconstructor(run, dataset, model, config, open_latents=partial(dataset.latents, model=str(model)))

    return make


@pytest.fixture(scope="module")
def generator(tiny_diffusion_folder: Path) -> Generator:
    return Generator(tiny_diffusion_folder)
