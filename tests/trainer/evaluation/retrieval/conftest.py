"""A small study and a run whose alignment stage is trained."""

from collections.abc import Callable
from pathlib import Path

import pytest
from small_study import RECIPE, write_latents, write_study

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.latent_store import LatentStore


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, tiny_diffusion_folder: Path) -> Path:
    folder = write_study(tmp_path_factory.mktemp("alignment") / "data")
    write_latents(folder, tiny_diffusion_folder)
    return folder


@pytest.fixture(scope="module", name="run")
def trained_run(
    study: Path, tiny_diffusion_folder: Path, tmp_path_factory: pytest.TempPathFactory, train_here: Callable[..., Path]
) -> Path:
    folder = tmp_path_factory.mktemp("alignment-run")
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(data=study, model=tiny_diffusion_folder))
    train_here(recipe, "alignment", folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def open_latents(study: Path, tiny_diffusion_folder: Path) -> Callable[[str], LatentStore]:
    dataset = Dataset.open(study)
    return lambda kind: dataset.latents(kind, model=str(tiny_diffusion_folder))
