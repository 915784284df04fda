"""The study with a new subject, and an untrained run of its other subjects."""

from pathlib import Path

import pytest
from new_subject_study import write_new_subject_study, write_untrained_run


@pytest.fixture(scope="session")
def new_subject_data(tmp_path_factory: pytest.TempPathFactory, tiny_diffusion_folder: Path) -> Path:
    """Read only."""
    return write_new_subject_study(tmp_path_factory.mktemp("new-subject") / "data", tiny_diffusion_folder)


@pytest.fixture(scope="session")
def other_data(tmp_path_factory: pytest.TempPathFactory, tiny_diffusion_folder: Path) -> Path:
    """Another study of fewer stimuli, of which others are in the test split. Read only."""
    folder = tmp_path_factory.mktemp("other") / "data"
    return write_new_subject_study(folder, tiny_diffusion_folder, num_stimuli=80, shift=2)


@pytest.fixture
def untrained_run(tmp_path: Path, new_subject_data: Path, tiny_diffusion_folder: Path) -> Path:
    return write_untrained_run(tmp_path / "run", new_subject_data, tiny_diffusion_folder)
