"""A child ends with its parent, even if the parent is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

CHILD = "import time; time.sleep(600)"
CHILD_THAT_ASKS = f"from neuroimagen.data_shards.common.parent_death import end_with_parent; end_with_parent(); {CHILD}"
PARENT = """
import subprocess, sys, time
from neuroimagen.data_shards.common.parent_death import ending_with_this_process
child = subprocess.Popen([sys.executable, "-c", {child!r}], preexec_fn={prepare})
{wait}
open({file!r}, "w").write(str(child.pid))
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's death signal is Linux's")
@pytest.mark.parametrize(
    ("child", "prepare", "wait"),
    [(CHILD, "ending_with_this_process()", ""), (CHILD_THAT_ASKS, "None", "time.sleep(3)")],
)
def test_the_child_of_a_killed_process_ends(tmp_path: Path, child: str, prepare: str, wait: str) -> None:
    file = tmp_path / "pid"
    code = PARENT.format(child=child, prepare=prepare, wait=wait, file=str(file))
    parent = subprocess.Popen([sys.executable, "-c", code])
    while not (file.exists() and file.read_text()):
        assert parent.poll() is None
        time.sleep(0.02)
    pid = int(file.read_text())
    assert psutil.pid_exists(pid)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 30
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the child outlived its parent"
        time.sleep(0.02)
