"""The study that searches with real trainings run on."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def study(make_tiny_dataset: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four stimuli of each class, so that those of the validation split can be recognised. Read only."""
    return make_tiny_dataset(tmp_path_factory.mktemp("study") / "data", num_stimuli=48)
