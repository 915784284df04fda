"""A rank's process, up to the start of training."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import os, sys
from neuroimagen.trainer.training import worker
sys.argv[0] = "worker"
try:
    worker.main()
except BaseException as error:
    print(type(error).__name__)
from deepspeed.accelerator import get_accelerator
print(get_accelerator().device_name(), repr(os.environ["CUDA_VISIBLE_DEVICES"]), os.environ.get("DS_ACCELERATOR"))
"""


@pytest.mark.parametrize(("options", "seen"), [(["--cpu"], "cpu '' cpu"), ([], "'0' None")])
def test_a_rank_hides_accelerators_from_itself_where_asked(tmp_path: Path, options: list[str], seen: str) -> None:
    """DeepSpeed's launcher sets CUDA_VISIBLE_DEVICES for every rank: hiding GPUs from the launcher is not enough."""
    environment = {name: value for name, value in os.environ.items() if name != "DS_ACCELERATOR"}
    environment |= {"RANK": "0", "CUDA_VISIBLE_DEVICES": "0"}
    (tmp_path / "saliency" / "logs").mkdir(parents=True)
    command = [sys.executable, "-c", CODE, "saliency", "--run", str(tmp_path), *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "UserError" in done.stdout  # there is no run
    assert done.stdout.splitlines()[-1].endswith(seen)
