"""The Ray cluster file and the SLURM script: what Ray and a stand-in for SLURM make of them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from neuroimagen.launch import cli

LAUNCH = Path(cli.__file__).resolve().parent


def test_the_cluster_file_is_what_ray_takes() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((LAUNCH / "ray-cluster.yaml").read_text())
    validate_config(prepare_config(config))
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert "RAY_USAGE_STATS_ENABLED=0" in config[key][1]


def write_stand_ins(folder: Path) -> None:
    """scontrol names two nodes, both this machine; srun runs its command here."""
    folder.mkdir()
    host = socket.gethostbyname(socket.gethostname())
    (folder / "scontrol").write_text(f"#!/bin/sh\necho {host}\necho {host}\n")
    (folder / "srun").write_text(
        '#!/bin/bash\nwhile [[ "$1" == --* ]]; do shift; done\nexec "$@" --temp-dir="$RAY_TEST_TEMP$RANDOM" '
        "--object-store-memory=80000000\n"
    )
    for path in folder.iterdir():
        path.chmod(0o755)


@pytest.mark.slow
def test_the_slurm_script_starts_a_cluster_runs_the_command_and_ends_it(tmp_path: Path) -> None:
    write_stand_ins(tmp_path / "bin")
    report = (
        "import os, ray; ray.init(address='auto', logging_level='ERROR'); "
        "alive = sum(node['Alive'] for node in ray.nodes()); "
        "print('nodes', alive, ray.cluster_resources()['CPU'], os.environ['RAY_AUTH_MODE'])"
    )
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_CPUS_PER_TASK": "1",
        "RAY_TEST_TEMP": "/tmp/ray-slurm-",
    }
    done = subprocess.run(
        ["bash", str(LAUNCH / "ray-slurm.sh"), sys.executable, "-c", report],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Ray cluster of 2 nodes" in done.stdout
    assert "nodes 2 2.0 token" in done.stdout


def test_the_slurm_script_says_what_it_is_called_with() -> None:
    done = subprocess.run(["bash", str(LAUNCH / "ray-slurm.sh")], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "usage: sbatch" in done.stderr
