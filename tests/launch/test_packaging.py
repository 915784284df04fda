"""The folders import as neuroimagen.*, however installed, and never get in the way of Hugging Face's `kernels`."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IMPORTS = """
import neuroimagen.data_shards.common.errors, neuroimagen.kernels.semihard, neuroimagen.launch.cli, neuroimagen.trainer
print(neuroimagen.launch.cli.__file__)
"""
HF_KERNELS_STUB = """
__version__ = "0.18.2"
class CUDAProperties: ...
class Device: ...
class LayerRepository: ...
class LocalLayerRepository: ...
class Mode:
    TRAINING = INFERENCE = 0
class FuncRepository: ...
class LocalFuncRepository: ...
def get_kernel(*a, **k): ...
def register_kernel_mapping(*a, **k): ...
def replace_kernel_forward_from_hub(*a, **k): ...
def use_kernel_forward_from_hub(*a, **k):
    return lambda thing: thing
def use_kernel_func_from_hub(*a, **k):
    return lambda thing: thing
def use_kernelized_func(*a, **k):
    return lambda thing: thing
def kernelize(*a, **k): ...
def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})
"""


def run_python(code: str, *, cwd: Path, python_path: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": python_path, "HOME": str(cwd)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_editable_install_imports_from_anywhere_and_from_the_root(tmp_path: Path) -> None:
    for folder in (tmp_path, ROOT):  # `python -c` puts the working directory on sys.path
        assert run_python(IMPORTS, cwd=folder).strip() == str(ROOT / "neuroimagen" / "launch" / "cli.py")


@pytest.fixture(scope="session")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, built from what git would carry (setuptools leaves build/ behind where it reads)."""
    folder = tmp_path_factory.mktemp("sdist")
    source = folder / "source"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if name.startswith(("tests/", "docs/")) or not os.path.lexists(ROOT / name):
            continue
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name, follow_symlinks=False)
    _build("--sdist", source, folder)
    return next(folder.glob("*.tar.gz"))


@pytest.fixture(scope="session")
def wheel(sdist: Path) -> Path:
    """The wheel, built from the source distribution, as `pip install neuroimagen-….tar.gz` does."""
    with tarfile.open(sdist) as archive:
        archive.extractall(sdist.parent, filter="data")
    _build("--wheel", sdist.parent / sdist.name.removesuffix(".tar.gz"), sdist.parent)
    return next(sdist.parent.glob("*.whl"))


def _build(kind: str, source: Path, out: Path) -> None:
    command = [sys.executable, "-m", "build", kind, "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_wheel_imports_and_carries_what_the_commands_read(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"neuroimagen"}
    assert "neuroimagen/kernels/__init__.py" not in names
    assert not [name for name in names if name.startswith("neuroimagen/benchmarks")]
    for needed in (
        "launch/recipes/demo.yaml",
        "launch/recipes/eegcvpr40-sd15.yaml",
        "trainer/bundled_model/bundled_64px/model_index.json",
        "trainer/bundled_model/bundled_64px/unet/diffusion_pytorch_model.safetensors",
        "trainer/report/page.html.j2",
        "py.typed",
    ):
        assert f"neuroimagen/{needed}" in names
    # A path entry comes before the editable finder's entries for packages that are whole in it.
    code = "import sys; sys.meta_path[:] = [f for f in sys.meta_path if '__editable__' not in repr(f)]" + IMPORTS
    where = run_python(code, cwd=tmp_path, python_path=str(tmp_path / "site")).strip()
    assert where == str(tmp_path / "site" / "neuroimagen" / "launch" / "cli.py")


def test_transformers_import_with_hugging_face_kernels_beside_us(tmp_path: Path) -> None:
    package = tmp_path / "kernels"
    package.mkdir()
    (package / "__init__.py").write_text(HF_KERNELS_STUB)
    metadata = tmp_path / "kernels-0.18.2.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: kernels\nVersion: 0.18.2\n")
    code = (
        "from transformers import CLIPVisionModel; import kernels; print(kernels.__version__);"
        "import neuroimagen.kernels.semihard as s; print(s.__name__)"
    )
    # From the repository's root, where a bare `kernels` folder stands on sys.path before everything else.
    output = run_python(code, cwd=ROOT, python_path=str(tmp_path))
    assert output.split() == ["0.18.2", "neuroimagen.kernels.semihard"]
