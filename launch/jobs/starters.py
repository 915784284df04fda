"""The commands that start a job's nodes, as pure functions: over pdsh or ssh, without either, in and through SLURM."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from neuroimagen.launch.jobs.hosts import Node
from neuroimagen.launch.jobs.rank_command import SAFE_PATH, Launcher

PASSED_ON = ("NCCL_", "GLOO_", "UCX_", "TORCH_", "PYTORCH_", "TRITON_", "OMP_", "DEEPSPEED_", "DS_", "HF_", "WANDB_")
"""Prefixes of the environment variables that every node gets."""
_NOT_PASSED_ON = ("WANDB_API_KEY", "HF_TOKEN")
"""Secrets, which every user of a machine could read in a command line. Log in on the nodes instead."""
MAX_FAN_OUT = 1024
"""Nodes that pdsh connects to at once."""


@dataclass(frozen=True, kw_only=True)
class NodesJob:
    """A job of several nodes, as its coordinator knows it."""

    module: str
    arguments: tuple[str, ...]
    nodes: tuple[Node, ...]
    coordinator: str
    """Address of the coordinator, as the nodes reach it."""
    port: int
    log_folder: Path
    launcher: Launcher = "deepspeed"
    exports: tuple[str, ...] = ()
    """NAME=VALUE of every environment variable that the nodes get."""
    folder: Path
    """Working directory, the same on every node."""
    cpu: bool = False
    """The ranks use the CPU, whatever accelerators there are."""

    @property
    def num_ranks(self) -> int:
        return sum(node.num_ranks for node in self.nodes)

    def host_of(self, rank: int) -> str:
        """The host that a global rank runs on."""
        for node in self.nodes:
            if rank < node.num_ranks:
                return node.host
            rank -= node.num_ranks
        raise IndexError(rank)


def passed_on(environment: Mapping[str, str], names: Sequence[str]) -> tuple[str, ...]:
    """NAME=VALUE of what nodes get: the variables with a known prefix, and `names` (each a NAME, or NAME=VALUE)."""
    chosen = {
        name: value for name, value in environment.items() if name.startswith(PASSED_ON) and name not in _NOT_PASSED_ON
    }
    for name in names:
        key, given, value = name.partition("=")
        if given:
            chosen[key] = value
        elif key in environment:
            chosen[key] = environment[key]
    return tuple(f"{name}={chosen[name]}" for name in sorted(chosen))


def node_command(job: NodesJob, node_rank: int | str) -> list[str]:
    """The command that runs on a node. `node_rank` is a number, or a word that pdsh or a shell replaces by it."""
    return [
        sys.executable,
        "-m",
        "neuroimagen.launch.jobs.node",
        f"--coordinator={job.coordinator}",
        f"--port={job.port}",
        f"--node-rank={node_rank}",
        "--nodes=" + ",".join(f"{node.host}:{node.num_ranks}" for node in job.nodes),
        f"--master-address={job.nodes[0].host}",
        f"--launcher={job.launcher}",
        f"--logs={job.log_folder}",
        *(["--cpu"] if job.cpu else []),
        *(f"--export={value}" for value in job.exports),
        f"--module={job.module}",
        "--",
        *job.arguments,
    ]


def _remote(job: NodesJob, node_rank: int | str) -> str:
    return f"cd {shlex.quote(str(job.folder))} && exec {shlex.join(node_command(job, node_rank))}"


def pdsh_command(job: NodesJob) -> list[str]:
    """One pdsh command that starts every node; pdsh replaces %n by the node's rank."""
    hosts = ",".join(node.host for node in job.nodes)
    return ["pdsh", "-S", "-R", "ssh", "-f", str(MAX_FAN_OUT), "-w", hosts, _remote(job, "%n")]


def ssh_commands(job: NodesJob) -> list[list[str]]:
    """One ssh command per node. BatchMode: it fails where ssh would ask for a password."""
    return [
        ["ssh", "-o", "BatchMode=yes", node.host, _remote(job, node_rank)] for node_rank, node in enumerate(job.nodes)
    ]


def srun_command(job: NodesJob) -> list[str]:
    """One srun over the allocation. SLURM sets each node's rank in SLURM_NODEID and passes the whole environment on."""
    words = shlex.join(node_command(job, "SLURM_RANK")).replace("--node-rank=SLURM_RANK", '--node-rank="$SLURM_NODEID"')
    return [
        "srun",
        f"--nodes={len(job.nodes)}",
        "--ntasks-per-node=1",
        "--kill-on-bad-exit=0",  # the coordinator decides what an early end of a node means
        f"--nodelist={','.join(node.host for node in job.nodes)}",
        "bash",
        "-c",
        f"exec {words}",
    ]


@dataclass(frozen=True, kw_only=True)
class SlurmRequest:
    """What to ask SLURM for."""

    nodes: int
    ranks_per_node: int
    gpus_per_node: int
    """0: train on CPU cores, one per rank."""
    notice_seconds: int = 180
    """How long before the time limit SLURM sends SIGUSR1."""
    options: tuple[str, ...] = ()
    """More options for #SBATCH lines, such as --partition=gpu."""


def sbatch_script(request: SlurmRequest, *, words: Sequence[str], launch_options: Sequence[str], folder: Path) -> str:
    """A batch script that trains inside its allocation, saves when SLURM sends a signal, and queues itself again.

    `words` is the command after `--`; `launch_options` are those of `neuroimagen launch`.
    """
    asks = [
        f"--nodes={request.nodes}",
        "--ntasks-per-node=1",
        *(
            [f"--gpus-per-node={request.gpus_per_node}"]
            if request.gpus_per_node
            else [f"--cpus-per-task={request.ranks_per_node}"]
        ),
        f"--signal=B:USR1@{request.notice_seconds}",
        "--requeue",
        "--open-mode=append",
        "--output=slurm-%j.log",
        *request.options,
    ]
    command = printable(
        [
            sys.executable,
            "-m",
            "neuroimagen.launch.cli",
            "launch",
            "--allocation",
            f"--num-ranks={request.ranks_per_node}",
            *launch_options,
            "--",
            *words,
        ],
        SAFE_PATH,
    )
    lines = "\n".join(f"#SBATCH {ask}" for ask in asks)
    return f"""#!/usr/bin/env bash
{lines}
# SLURM signals this shell (USR1 before the time limit, TERM on pre-emption and scancel). The run saves and exits with
# 128 + the signal. After USR1 this script requeues the job, which then resumes; SLURM requeues a pre-empted job itself.
cd {shlex.quote(str(folder))} || exit 1
{command} &
child=$!
trap 'kill -USR1 "$child"' USR1
trap 'kill -TERM "$child"' TERM
wait "$child"
code=$?
while kill -0 "$child" 2>/dev/null; do wait "$child"; code=$?; done
if [ "$code" -eq 138 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
"""


def printable(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """A command as it is typed in a shell, after the environment variables that it needs."""
    before = "".join(f"{name}={shlex.quote(value)} " for name, value in (environment or {}).items())
    return before + shlex.join(command)
