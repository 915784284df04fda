"""Every module has a test of its name, or a reason why not."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("data_shards", "kernels", "trainer", "tune", "launch")

REASONS = {
    "tune/runner.py": "It runs trials: tests/tune/test_search.py and tests/tune/test_driver.py run whole searches.",
    "trainer/batches/out_of_fold.py": (
        "tests/trainer/stages/test_prior.py compares what is kept with each fold's network, and finds missing folds."
    ),
    "data_shards/common/arrays.py": "It names types for annotations; nothing in it runs.",
    "kernels/backends/infonce_triton_kernels.py": (
        "interpreted_infonce.py and, with interpreted kernels, test_infonce.py compare their results with float64; "
        "compile_gate.py compiles them. test_infonce_triton.py starts all three in processes of their own."
    ),
    "data_shards/sources/recordings/part.py": (
        "What a recording gives is compared with MNE's own epochs, and what is dropped with its reasons, in "
        "tests/data_shards/sources/recordings/test_source.py and the tests of cutting/."
    ),
    "kernels/backends/semihard_loss_triton.py": (
        "Kernels are interpreted in a process of their own: interpreted_semihard.py, which test_semihard_triton.py "
        "starts, compares its loss and gradient with the formula."
    ),
    "kernels/backends/semihard_triton_kernels.py": (
        "interpreted_semihard.py changes each kernel and expects to notice; compile_gate.py compiles them. "
        "test_semihard_triton.py starts both in processes of their own."
    ),
}
"""Module → one sentence that says where it is tested, or that there is nothing to test."""


def expected_test(module: Path) -> Path:
    """Where the test of a module stands: the same folder below tests/, the same name."""
    return ROOT / "tests" / module.parent / f"test_{module.name}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_module_has_a_test_of_its_name_or_a_reason(folder: str) -> None:
    modules = [path.relative_to(ROOT) for path in (ROOT / folder).rglob("*.py") if path.name != "__init__.py"]
    assert modules
    without = {str(module) for module in modules if not expected_test(module).is_file()}
    missing = sorted(without - REASONS.keys())
    assert not missing, f"add {', '.join(str(expected_test(Path(name)).relative_to(ROOT)) for name in missing)}"


def test_a_reason_is_for_a_module_that_is_there_and_has_no_test() -> None:
    for name, reason in REASONS.items():
        assert (ROOT / name).is_file(), f"{name} is gone: remove its reason"
        assert not expected_test(Path(name)).exists(), f"{name} has a test now: remove its reason"
        assert reason.endswith(".")
