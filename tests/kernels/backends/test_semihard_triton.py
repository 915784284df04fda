"""The Triton backend of the miner without a GPU: its results by interpretation, its resources by compilation."""

from pathlib import Path

import pytest
from compile_cases import GOLDEN, TRITON, check, check_recorded, compile_cases

from neuroimagen.kernels.backends import infonce_triton_kernels, semihard_triton_kernels

FOLDER = Path(__file__).parent
WIDTHS = (32, 33, 96, 192, 257, 512, 1000, 1024)
ARCHS = (80, 86, 89, 90, 100, 103, 120, "gfx942")


def test_the_kernels_in_the_interpreter(interpret):
    interpret(FOLDER / "interpreted_semihard.py")


def test_what_the_kernels_cost_in_the_interpreter(interpret):
    interpret(FOLDER / "interpreted_semihard_cost.py")


@pytest.mark.parametrize("module", [semihard_triton_kernels, infonce_triton_kernels])
def test_a_batch_of_another_size_compiles_nothing(module):
    """Triton compiles anew when a number becomes 1 or divisible by 16, unless it is told not to look at it."""
    fixed = {"D", "x_stride", "half", "stride", "out_stride"}  # the model's, and divisible whatever the batch
    kernels = {name: kernel for name, kernel in vars(module).items() if name.endswith("_kernel")}
    assert len(kernels) >= 3
    for name, kernel in kernels.items():
        numbers = {
            parameter.name
            for parameter in kernel.params
            if not parameter.is_constexpr and not parameter.name.isupper() or parameter.name in ("M", "N")
        }
        watched = {parameter.name for parameter in kernel.params if not parameter.do_not_specialize}
        assert numbers & watched <= fixed, name


def test_the_gate_of_every_architecture():
    """D = 128, 4 positives, fast, on each architecture; exact and the small kernels on sm_90."""
    cases = [
        *(f"semihard_kernel,{arch},fast,128,4" for arch in ARCHS),
        "semihard_kernel,90,exact,128,4",
        *(f"{kernel}_kernel,90,exact,128,4" for kernel in ("prepare", "hinge", "piece", "gradient")),
        "farthest_kernel,90,fast,128,4",
    ]
    results = compile_cases(cases)
    assert list(results) == cases
    for result in results.values():
        check(result)
    # One block computes its products while the other one scans.
    assert results["semihard_kernel,90,fast,128,4"]["blocks_per_sm"] >= 2
    check_recorded(results)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("precision", ["fast", "exact"])
def test_the_gate_of_every_width(arch, precision):
    cases = [f"semihard_kernel,{arch},{precision},{width},40" for width in WIDTHS]
    cases += [f"semihard_kernel,{arch},{precision},{width},{slots}" for width in (128, 512) for slots in (1, 2)]
    cases += [f"farthest_kernel,{arch},{precision},{width},4" for width in (33, 192, 1024)]
    for result in compile_cases(cases).values():
        check(result)
