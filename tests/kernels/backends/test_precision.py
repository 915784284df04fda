"""Products in full float32 leave the process's precision settings as they were found, whichever kind was used."""

import subprocess
import sys

import pytest

SCRIPT = """
import torch
from neuroimagen.kernels.backends.precision import full_float32

backends = torch.backends
SETTINGS = {{
    "generic": backends,
    "cuda": backends.cuda.matmul,
    "mkldnn": backends.mkldnn.matmul,
}}

def found():
    values = {{name: owner.fp32_precision for name, owner in SETTINGS.items()}}
    try:
        values["legacy"] = torch.get_float32_matmul_precision()
    except RuntimeError:
        values["legacy"] = "both kinds were used"
    return values

{set_by_the_user}
before = found()
with full_float32():
    inside = found()
    assert inside["cuda"] in ("ieee", "none") and inside["mkldnn"] in ("ieee", "none"), inside
assert found() == before, (before, found())
try:
    with full_float32():
        raise KeyError
except KeyError:
    pass
assert found() == before, (before, found())
{afterwards}
print(before)
"""
CASES = {
    "nothing": ("", "backends.fp32_precision = 'tf32'; assert found()['cuda'] == 'tf32'"),
    "legacy high": ("torch.set_float32_matmul_precision('high')", ""),
    "legacy medium": ("torch.set_float32_matmul_precision('medium')", ""),
    "allow_tf32": ("backends.cuda.matmul.allow_tf32 = True", ""),
    # What inherits goes on inheriting.
    "generic": ("backends.fp32_precision = 'tf32'", "backends.fp32_precision = 'none'; assert found()['cuda'] == 'none'"),
    "one backend": ("backends.cuda.matmul.fp32_precision = 'tf32'", ""),
    "the other backend": ("backends.mkldnn.matmul.fp32_precision = 'bf16'", ""),
    "both kinds": (
        "torch.set_float32_matmul_precision('high'); backends.mkldnn.matmul.fp32_precision = 'bf16'",
        "assert found()['legacy'] == 'both kinds were used'",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_settings_are_left_as_found(case):
    """In a process of its own: the settings are global, and some cannot be taken back."""
    set_by_the_user, afterwards = CASES[case]
    script = SCRIPT.format(set_by_the_user=set_by_the_user, afterwards=afterwards)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
