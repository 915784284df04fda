"""A real SLURM with munge on this machine: a job is signalled before its time limit, requeued and resumed."""

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from real_jobs import left_behind, step_of

from neuroimagen.trainer.runs.rank_status import read_statuses

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/linear
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=60 State=UP
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A SLURM of one node whose files are all in one folder; the environment in which its commands find it."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed (apt-get install slurm-wlm munge)")
    if os.getuid() != 0:
        pytest.skip("slurmd needs root")
    folder = Path("/tmp") / f"neuroimagen-slurm-{secrets.token_hex(4)}"  # a socket's path must be short
    folder.mkdir(mode=0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "key").write_bytes(secrets.token_bytes(128))
    (folder / "key").chmod(0o600)
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(
            host=socket.gethostname().partition(".")[0],
            folder=folder,
            user="root",
            cpus=os.cpu_count(),
            controller_port=free_port(),
            node_port=free_port(),
        )
    )
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "OMP_NUM_THREADS": "1"}
    files = [f"--{name}-file={folder}/{file}" for name, file in (("key", "key"), ("pid", "munged.pid"))]
    files += [f"--{name}-file={folder}/munged.{name}" for name in ("log", "seed")]
    daemons = []
    with (folder / "daemons.log").open("ab") as log:
        for command in (
            ["munged", "--force", "--foreground", f"--socket={folder}/munge.socket", *files],
            ["slurmctld", "-D"],
            ["slurmd", "-D"],
        ):
            daemons.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            time.sleep(1)
    try:
        deadline = time.monotonic() + 60
        while "idle" not in subprocess.run(["sinfo", "-h"], env=environment, capture_output=True, text=True).stdout:
            assert time.monotonic() < deadline, (folder / "daemons.log").read_text()
            time.sleep(0.5)
        yield environment
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(60)
        shutil.rmtree(folder)


def submit(slurm: dict[str, str], recipe: Path, run: Path, *, steps: int) -> str:
    """Submit a training of two ranks; returns the job's number."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "neuroimagen.launch.cli", "launch", "--slurm", "--num-ranks", "2"),
            *("--sbatch=--time=60", "--notice", "600", f"--sbatch=--output={run}.log", "--"),
            *("train", "contrastive", "--config", str(recipe), "--run", str(run), "--set"),
            *(f"contrastive.steps={steps}", "contrastive.checkpoint_every=100000", "contrastive.log_every=1"),
        ],
        env=slurm,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()[-1]


def property_of(slurm: dict[str, str], job: str, name: str) -> str:
    shown = subprocess.run(["scontrol", "show", "job", job], env=slurm, capture_output=True, text=True, check=True)
    found = re.search(rf"\b{name}=(\S+)", shown.stdout)
    assert found is not None, shown.stdout
    return found[1]


def wait_until(is_so: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + 900
    while not is_so():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def test_a_job_is_signalled_requeued_and_resumed_to_its_end(
    slurm: dict[str, str], job_recipe: Path, tmp_path: Path
) -> None:
    run, log, steps = tmp_path / "run", tmp_path / "run.log", 400
    job = submit(slurm, job_recipe, run, steps=steps)
    wait_until(lambda: step_of(run) >= 50, log)
    # SLURM sends its signal when it next looks, every half minute; on a fast machine the run would have ended by then.
    ranks = [status.pid for status in read_statuses(run / "contrastive" / "logs")]
    for pid in ranks:
        os.kill(pid, signal.SIGSTOP)
    hours, minutes, _ = map(int, property_of(slurm, job, "RunTime").split(":"))
    limit = f"TimeLimit={60 * hours + minutes + 5}"
    subprocess.run(["scontrol", "update", f"JobId={job}", limit], env=slurm, check=True)
    time.sleep(45)
    for pid in ranks:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: property_of(slurm, job, "Restarts") == "1", log)
    subprocess.run(["scontrol", "update", f"JobId={job}", "TimeLimit=60"], env=slurm, check=True)
    assert log.read_text().count("stopped on request") == 1
    stopped_at = step_of(run)
    assert 50 <= stopped_at < steps
    wait_until(lambda: property_of(slurm, job, "JobState") not in ("PENDING", "RUNNING", "COMPLETING"), log)
    assert property_of(slurm, job, "JobState") == "COMPLETED", log.read_text()
    lines = [json.loads(line) for line in (run / "contrastive" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, steps + 1))
    assert (run / "contrastive" / "export" / "model.safetensors").is_file()
    assert left_behind(run) == []


def test_a_cancelled_job_saves(slurm: dict[str, str], job_recipe: Path, tmp_path: Path) -> None:
    """SIGTERM reaches the batch script, and through srun the agents: the ranks save once, together."""
    run, log = tmp_path / "run", tmp_path / "run.log"
    job = submit(slurm, job_recipe, run, steps=20_000)
    wait_until(lambda: step_of(run) >= 30, log)
    subprocess.run(["scancel", "--signal=TERM", "--full", job], env=slurm, check=True)
    wait_until(lambda: "stopped on request" in log.read_text(), log)
    latest = (run / "contrastive" / "checkpoints" / "latest").read_text().strip()
    assert int(latest.rpartition("-")[2]) == step_of(run) >= 30
    wait_until(lambda: left_behind(run) == [], log)
