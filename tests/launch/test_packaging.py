"""The folders import as neuroimagen.*, however installed, and never get in the way of Hugging Face's `kernels`."""

import os
import shutil
import subprocess
import sys
import tarfile
import textwrap
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


def run_python(*words: str, cwd: Path, python_path: str = "") -> str:
    """What Python prints when it is started in `cwd` with these words, in an environment of its own."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": python_path, "HOME": str(cwd)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_editable_install_imports_from_anywhere_and_from_the_root(tmp_path: Path) -> None:
    for folder in (tmp_path, ROOT):  # `python -c` puts the working directory on sys.path
        assert run_python("-c", IMPORTS, cwd=folder).strip() == str(ROOT / "neuroimagen" / "launch" / "cli.py")


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
        "trainer/bundled_model/bundled_64px/ip_adapter/ip_adapter.safetensors",
        "trainer/bundled_model/bundled_64px/image_encoder/model.safetensors",
        "trainer/report/page.html.j2",
        "py.typed",
    ):
        assert f"neuroimagen/{needed}" in names
    # A path entry comes before the editable finder's entries for packages that are whole in it.
    code = "import sys; sys.meta_path[:] = [f for f in sys.meta_path if '__editable__' not in repr(f)]" + IMPORTS
    where = run_python("-c", code, cwd=tmp_path, python_path=str(tmp_path / "site")).strip()
    assert where == str(tmp_path / "site" / "neuroimagen" / "launch" / "cli.py")


@pytest.fixture(scope="session")
def hf_kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH with a stand-in for Hugging Face's distribution `kernels` of a version that it takes."""
    folder = tmp_path_factory.mktemp("hf-kernels")
    (folder / "kernels").mkdir()
    (folder / "kernels" / "__init__.py").write_text(HF_KERNELS_STUB)
    metadata = folder / "kernels-0.18.2.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: kernels\nVersion: 0.18.2\n")
    return folder


BESIDE_US = """
from transformers import CLIPVisionModel
import kernels, neuroimagen.kernels.semihard as semihard
assert (kernels.__version__, semihard.__name__) == ("0.18.2", "neuroimagen.kernels.semihard")
"""


def test_hugging_face_s_kernels_is_found_from_the_root(hf_kernels: Path) -> None:
    """`python -c` puts the repository's root on sys.path before everything else, and with it a folder kernels/."""
    run_python("-c", BESIDE_US, cwd=ROOT, python_path=str(hf_kernels))


def test_hugging_face_s_kernels_is_found_by_pytest_from_the_root(hf_kernels: Path, tmp_path: Path) -> None:
    """`python -m pytest`, as `make test` calls it, puts the root there too."""
    body = textwrap.indent(BESIDE_US, "    ")
    (tmp_path / "test_it.py").write_text(f"def test_it():{body}")
    words = ("-m", "pytest", "-c", "pyproject.toml", "-p", "no:cacheprovider", str(tmp_path / "test_it.py"))
    assert "[100%]" in run_python(*words, cwd=ROOT, python_path=str(hf_kernels))


RANK = """
import importlib.util, os, sys
from pathlib import Path
from neuroimagen.trainer.runs.rank_status import write_status

logs = Path(sys.argv[1])
{beside_us}
bare = [name for name in ("trainer", "tune", "launch", "tests", "data_shards") if importlib.util.find_spec(name)]
assert bare == [], bare
assert os.getcwd() not in sys.path
write_status(logs, int(os.environ["RANK"]), "done")
"""
JOB = """
import sys
from pathlib import Path
from neuroimagen.launch.nodes.gate import new_token
from neuroimagen.launch.nodes.job import Job, local_nodes
from neuroimagen.launch.nodes.launcher import run_job
from neuroimagen.launch.nodes.starters import node_command

logs = Path({logs!r})
job = Job(module="a_rank", arguments=(str(logs),), nodes=local_nodes(1), log_folder=logs)
commands = lambda port: [node_command(job, 0, store_port=port)]
run_job(job, commands, token=new_token(), max_restarts=0, watch=lambda: None, say=print)
"""


def test_a_launched_rank_sees_no_folder_of_the_root_by_its_bare_name(hf_kernels: Path, tmp_path: Path) -> None:
    """The launchers start ranks with `python -m`, which puts the root on sys.path unless the environment says no."""
    (tmp_path / "a_rank.py").write_text(RANK.format(beside_us=BESIDE_US))
    path = os.pathsep.join([str(hf_kernels), str(tmp_path)])
    run_python("-c", JOB.format(logs=str(tmp_path / "logs")), cwd=ROOT, python_path=path)
