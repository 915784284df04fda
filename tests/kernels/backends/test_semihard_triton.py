"""The Triton backend without a GPU: its results by interpretation, its resources by compilation."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
GOLDEN = json.loads((FOLDER / "compile_gate_golden.json").read_text())
"""Version of Triton → case → recorded instructions per element of the hot loop."""
TRITON = ".".join(importlib.metadata.version("triton").split(".")[:2])
WIDTHS = (32, 33, 96, 192, 257, 512, 1000, 1024)


def test_the_kernels_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-x", FOLDER / "interpreted_semihard.py"]
    done = subprocess.run(
        command,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        cwd=FOLDER.parent.parent.parent,
    )
    if TRITON == "3.6" and "only 0-dimensional arrays can be converted" in done.stdout:
        pytest.skip("Triton 3.6's interpreter does not know NumPy 2.4; it needs numpy<2.4")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def compile_cases(cases):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, FOLDER / "compile_gate.py", *cases]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(result):
    """What must hold on every architecture."""
    case = result["case"]
    assert result["spills"] == 0, case
    assert result["shared"] <= result["shared_limit"], case
    assert result["wide_rows"], case
    if "mma" in result:
        assert result["mma"] > 0, case


def test_the_gate_of_every_architecture():
    """D = 128, 4 positives, fast, on each architecture; exact and the small kernels on sm_90."""
    cases = [
        *(f"semihard_kernel,{arch},fast,128,4" for arch in (80, 90, 100, "gfx942")),
        "semihard_kernel,90,exact,128,4",
        *(f"{kernel},90,exact,128,4" for kernel in ("prepare_kernel", "hinge_kernel", "gradient_kernel")),
        "farthest_kernel,90,fast,128,4",
    ]
    results = {result["case"]: result for result in compile_cases(cases)}
    assert list(results) == cases
    for result in results.values():
        check(result)
    # One block computes its products while the other one scans.
    assert results["semihard_kernel,90,fast,128,4"]["blocks_per_sm"] >= 2
    if TRITON not in GOLDEN:
        pytest.skip(f"all holds but one check: no instruction counts are recorded for Triton {TRITON}")
    for case, recorded in GOLDEN[TRITON].items():
        assert results[case]["instructions_per_element"] <= 1.05 * recorded, case


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90, 100, "gfx942"])
@pytest.mark.parametrize("precision", ["fast", "exact"])
def test_the_gate_of_every_width(arch, precision):
    cases = [f"semihard_kernel,{arch},{precision},{width},40" for width in WIDTHS]
    cases += [f"semihard_kernel,{arch},{precision},{width},{slots}" for width in (128, 512) for slots in (1, 2)]
    cases += [f"farthest_kernel,{arch},{precision},{width},4" for width in (33, 192, 1024)]
    for result in compile_cases(cases):
        check(result)
