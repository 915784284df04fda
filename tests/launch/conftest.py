"""The small study's recipe, for tests that start real jobs."""

from pathlib import Path

import pytest
from small_study import RECIPE, write_study


@pytest.fixture(scope="session")
def job_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe whose contrastive stage takes 20 steps on two subjects' small study. Read only."""
    folder = tmp_path_factory.mktemp("job")
    write_study(folder / "data")
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(data=folder / "data", model="bundled"), encoding="utf-8")
    return path
