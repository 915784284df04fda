"""The commands that start nodes, without starting any."""

import os
import shlex
import stat
import subprocess
import time
from dataclasses import replace
from pathlib import Path

from neuroimagen.launch.jobs.hosts import Node
from neuroimagen.launch.jobs.node import _parser
from neuroimagen.launch.jobs.starters import (
    NodesJob,
    SlurmRequest,
    node_command,
    passed_on,
    pdsh_command,
    sbatch_script,
    srun_command,
    ssh_commands,
)

JOB = NodesJob(
    module="a.b",
    arguments=("x", "--run", "dir with space"),
    nodes=(Node(host="n1", num_ranks=2), Node(host="n2", num_ranks=3)),
    coordinator="10.0.0.1",
    port=4000,
    log_folder=Path("/logs of it"),
    exports=("NCCL_DEBUG=INFO", "A=b c"),
    folder=Path("/home/me/my project"),
)


def test_a_node_reads_its_command() -> None:
    words = node_command(JOB, 1)
    args = _parser().parse_args(words[words.index("neuroimagen.launch.jobs.node") + 1 :])
    assert (args.coordinator, args.port, args.node_rank, args.nodes) == ("10.0.0.1", 4000, 1, "n1:2,n2:3")
    assert args.master_address == "n1"
    assert args.logs == JOB.log_folder
    assert args.export == list(JOB.exports)
    assert (args.module, args.arguments) == ("a.b", ["x", "--run", "dir with space"])
    assert not args.cpu
    words = node_command(replace(JOB, cpu=True), 1)
    assert _parser().parse_args(words[words.index("neuroimagen.launch.jobs.node") + 1 :]).cpu


def test_pdsh_ssh_and_srun_quote_what_a_shell_would_split() -> None:
    pdsh = pdsh_command(JOB)
    assert pdsh[:7] == ["pdsh", "-S", "-R", "ssh", "-f", "1024", "-w"]
    assert pdsh[7] == "n1,n2"
    remote = shlex.split(pdsh[8])
    assert remote[:4] == ["cd", "/home/me/my project", "&&", "exec"]
    assert remote[4:] == node_command(JOB, "%n")
    second = ssh_commands(JOB)[1]
    assert second[-2] == "n2"
    assert shlex.split(second[-1])[4:] == node_command(JOB, 1)
    srun = srun_command(JOB)
    assert "--nodelist=n1,n2" in srun
    shown = subprocess.run(
        ["bash", "-c", srun[-1].replace("exec ", "printf '%s\\n' ", 1)],
        env={**os.environ, "SLURM_NODEID": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.splitlines() == node_command(JOB, 1)


def test_ranks_know_their_hosts() -> None:
    assert [JOB.host_of(rank) for rank in range(JOB.num_ranks)] == ["n1", "n1", "n2", "n2", "n2"]


def test_secrets_and_the_rest_of_the_environment_stay_here() -> None:
    here = {
        "NCCL_DEBUG": "INFO",
        "WANDB_API_KEY": "s",
        "HF_TOKEN": "s",
        "HOME": "/h",
        "LAB": "x",
        "WANDB_MODE": "offline",
    }
    assert passed_on(here, ["LAB", "NEW=1", "ABSENT"]) == ("LAB=x", "NCCL_DEBUG=INFO", "NEW=1", "WANDB_MODE=offline")


def slurm(tmp_path: Path, words: list[str]) -> str:
    """A batch script whose `neuroimagen launch` is replaced by `words`."""
    request = SlurmRequest(nodes=2, ranks_per_node=4, gpus_per_node=4, options=("--partition=gpu",))
    script = sbatch_script(request, words=["train", "x"], launch_options=["--max-restarts=1"], folder=tmp_path)
    line = next(line for line in script.splitlines() if "neuroimagen.launch.cli launch --allocation" in line)
    assert line.endswith(" --max-restarts=1 -- train x &")
    return script.replace(line, f"{shlex.join(words)} &")


def test_the_batch_script_asks_for_what_it_needs(tmp_path: Path) -> None:
    script = slurm(tmp_path, ["true"])
    for ask in ("--nodes=2", "--gpus-per-node=4", "--signal=B:USR1@180", "--requeue", "--partition=gpu"):
        assert f"#SBATCH {ask}\n" in script


def test_the_batch_script_passes_slurm_s_signal_on_and_requeues(tmp_path: Path) -> None:
    """Run with bash, as SLURM does: a child that saves on USR1 and leaves with 128 + 10, and a scontrol that notes."""
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" > {shlex.quote(str(tmp_path))}/asked\n')
    scontrol.chmod(scontrol.stat().st_mode | stat.S_IXUSR)
    child = "trap 'echo saved > saved; exit 138' USR1; touch ready; while :; do sleep 0.05; done"
    script = slurm(tmp_path, ["bash", "-c", child])
    environment = {**os.environ, "PATH": f"{scontrol.parent}:{os.environ['PATH']}", "SLURM_JOB_ID": "77"}
    process = subprocess.Popen(["bash", "-c", script], env=environment)
    while not (tmp_path / "ready").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(10)
    assert process.wait(20) == 138
    assert (tmp_path / "saved").exists()
    assert (tmp_path / "asked").read_text() == "requeue 77\n"
    done = subprocess.run(["bash", "-c", slurm(tmp_path, ["bash", "-c", "exit 1"])], env=environment, check=False)
    assert done.returncode == 1
