"""Fixtures of the kernels' tests."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def load_mutant(tmp_path: Path) -> Callable[[ModuleType, str, str], ModuleType]:
    """load_mutant(module, old, new) → the module with a piece of its source exchanged; `old` stands in it once."""

    def load(module: ModuleType, old: str, new: str) -> ModuleType:
        assert module.__file__ is not None
        source = Path(module.__file__).read_text()
        assert source.count(old) == 1, f"{old!r} stands {source.count(old)} times in {module.__name__}"
        path = tmp_path / "mutant.py"
        path.write_text(source.replace(old, new))
        spec = importlib.util.spec_from_file_location("mutant", path)
        assert spec is not None
        assert spec.loader is not None
        mutant = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(mutant)
        return mutant

    return load
