"""A small study and its recipe, for tests that start real jobs (tests/trainer/conftest.py makes them)."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def small_studies() -> ModuleType:
    """tests/trainer/conftest.py; by path, because tests/ is on no import path."""
    path = Path(__file__).parents[1] / "trainer" / "conftest.py"
    spec = importlib.util.spec_from_file_location("small_studies", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["small_studies"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def job_recipe(small_studies: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe whose contrastive stage takes 20 steps on two subjects' small study. Read only."""
    folder = tmp_path_factory.mktemp("job")
    small_studies.write_study(folder / "data")
    path = folder / "recipe.yaml"
    path.write_text(small_studies.RECIPE.format(data=folder / "data", model="embedded"), encoding="utf-8")
    return path
