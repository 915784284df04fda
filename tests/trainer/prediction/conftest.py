"""The run that tests of new EEG draw with."""

from pathlib import Path

import pytest
from trained_run import Trained, write_trained


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory, tiny_dataset_folder: Path, tiny_diffusion_folder: Path
) -> Trained:
    """A run of untrained networks that allows every condition. Read only."""
    return write_trained(tmp_path_factory.mktemp("prediction"), data=tiny_dataset_folder, model=tiny_diffusion_folder)
