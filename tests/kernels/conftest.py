"""Fixtures of the kernels' tests."""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
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


@pytest.fixture
def interpret() -> Callable[..., None]:
    """interpret(file, …): run these tests in a process of their own, with Triton's kernels interpreted.

    The variable is read when Triton is imported, and interpreted kernels cannot be compiled.
    """

    def run(*files: Path) -> None:
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-x", "-m", "not slow", *files]
        root = Path(__file__).parents[2]
        done = subprocess.run(
            command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, cwd=root
        )
        is_triton_3_6 = importlib.metadata.version("triton").startswith("3.6.")
        if is_triton_3_6 and "only 0-dimensional arrays can be converted" in done.stdout:
            pytest.skip("Triton 3.6's interpreter does not know NumPy 2.4; it needs numpy<2.4")
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]

    return run
