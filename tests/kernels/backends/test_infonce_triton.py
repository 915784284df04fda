"""The Triton backend of InfoNCE without a GPU: the torch backend's tests interpreted, resources by compilation."""

from pathlib import Path

import pytest
from compile_cases import check, check_recorded, compile_cases

from neuroimagen.kernels.backends.devices import shared_memory
from neuroimagen.kernels.backends.infonce_triton import padded, tiles_for

FOLDER = Path(__file__).parent
ARCHS = (80, 86, 89, 90, 100, 103, 120, "gfx942")
KERNELS = ("logsumexp_kernel", "slope_kernel", "product_kernel", "product_kernel_transposed")


def test_the_tests_of_the_loss_with_interpreted_kernels(interpret):
    interpret(FOLDER.parent / "test_infonce.py")


def test_tiles_slabs_and_splits_in_the_interpreter(interpret):
    interpret(FOLDER / "interpreted_infonce.py")


def check_all(cases):
    results = compile_cases(cases)
    assert list(results) == cases
    for result in results.values():
        check(result)
    check_recorded(results)


def test_the_gate_of_the_forward_pass_on_every_architecture_and_of_all_kernels_on_one():
    forward = [f"logsumexp_kernel,{arch},exact,1024,0" for arch in ARCHS]
    check_all(forward + [f"{kernel},90,exact,1024,0" for kernel in KERNELS[1:]])


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
def test_the_gate_of_all_kernels(arch):
    """The code does not depend on the width, but for whether it is a multiple of 128."""
    check_all([f"{kernel},{arch},exact,{width},0" for kernel in KERNELS for width in (192, 1024)])


@pytest.mark.parametrize("arch", ARCHS)
def test_stages_fit_the_shared_memory_and_rows_are_padded_to_whole_tiles(arch):
    tiles = tiles_for(arch)
    assert 4 * tiles.num_stages * tiles.BD * (tiles.BM + tiles.BN_backward) < shared_memory(arch)
    for num_features in (1, 32, 33, 64, 65, 100, 192, 1000, 1024):
        half = padded(num_features)
        assert num_features <= half < num_features + 64
        assert half % tiles.product_constants(half)["BN"] == 0
        assert half % tiles.BD == 0
