"""An editor in a fresh clone, where nothing is installed, finds what our imports name."""

import subprocess
import sys
from pathlib import Path

import jedi
import pytest

import neuroimagen

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of what is committed."""
    folder = tmp_path_factory.mktemp("fresh clone") / "project"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    return folder


@pytest.mark.parametrize(
    ("line", "name", "file"),
    [
        ("from neuroimagen.trainer.stages.base import Stage", "Stage", "trainer/stages/base.py"),
        ("from neuroimagen.kernels.semihard import mine_semihard", "mine_semihard", "kernels/semihard.py"),
        ("from neuroimagen import Dataset", "Dataset", "data_shards/dataset/dataset.py"),
    ],
)
def test_jedi_finds_the_definition(clone: Path, line: str, name: str, file: str) -> None:
    project = jedi.Project(clone, sys_path=[str(clone)])
    script = jedi.Script(line + "\n", path=clone / "example.py", project=project)
    (found,) = script.goto(1, len(line), follow_imports=True)
    assert found.name == name
    assert found.module_path is not None
    assert found.module_path.resolve() == (clone / file).resolve()


def test_the_links_lead_to_the_folders() -> None:
    links = {path.name: path.resolve() for path in (ROOT / "neuroimagen").iterdir() if path.is_symlink()}
    assert set(links) == {"benchmarks", "data_shards", "kernels", "launch", "trainer", "tune"}
    assert all(target == ROOT / name for name, target in links.items())
    assert all(not (ROOT / "neuroimagen" / name).readlink().is_absolute() for name in links)


def test_public_names_are_there_and_import_nothing_before_they_are_used() -> None:
    assert set(neuroimagen._MODULES) == set(neuroimagen.__all__) - {"__version__"}
    for name in neuroimagen.__all__:
        assert getattr(neuroimagen, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Datset'"):
        neuroimagen.Datset  # noqa: B018
    code = "import neuroimagen, sys; print(neuroimagen.__version__, 'torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [neuroimagen.__version__, "False", "False"]
