"""The small study, and training on it in this process."""

from collections.abc import Callable
from pathlib import Path

import pytest
from small_study import RECIPE, write_latents, write_study
from train_here import train_in_process


@pytest.fixture(scope="session")
def study_folder(tmp_path_factory: pytest.TempPathFactory, tiny_diffusion_folder: Path) -> Path:
    """The small study with latents of the tiny model. Read only."""
    folder = write_study(tmp_path_factory.mktemp("study") / "data")
    write_latents(folder, tiny_diffusion_folder)
    return folder


@pytest.fixture(scope="session")
def recipe_path(tmp_path_factory: pytest.TempPathFactory, study_folder: Path, tiny_diffusion_folder: Path) -> Path:
    """A recipe for the small study, with a few steps of every stage. Read only."""
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(RECIPE.format(data=study_folder, model=tiny_diffusion_folder), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def train_here(one_rank: None) -> Callable[..., Path]:
    """train_here(recipe_path, stage, run, *overrides, resume=False) → the stage's folder, trained in this process."""

    def run_stage(recipe_path: Path, stage: str, run: Path, *overrides: str, resume: bool = False) -> Path:
        return train_in_process(recipe_path, stage, run, overrides, resume=resume)

    return run_stage
