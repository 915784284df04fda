"""The commands that start a job's nodes, as pure functions: over pdsh or ssh, without either, in and through SLURM."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from neuroimagen.launch.nodes.gate import TOKEN_VARIABLE
from neuroimagen.launch.nodes.job import SAFE_PATH, Job

PASSED_ON = ("NCCL_", "GLOO_", "UCX_", "TORCH_", "PYTORCH_", "TRITON_", "OMP_", "DEEPSPEED_", "DS_", "HF_", "WANDB_")
"""Prefixes of the environment variables that every node gets."""
_NOT_PASSED_ON = ("WANDB_API_KEY", "HF_TOKEN")
"""Secrets, which every user of a machine could read in a command line. Log in on the nodes instead."""
_SSH_OPTIONS = ("-o", "BatchMode=yes")
"""It fails where it would ask for a password."""
MAX_FAN_OUT = 1024
"""Nodes that pdsh connects to at once."""


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


def node_command(job: Job, node_rank: int | str, *, store_port: int = 0) -> list[str]:
    """The command that runs on a node. `node_rank` is a number, or a word that pdsh or a shell replaces by it."""
    return [
        sys.executable,
        "-uP",  # without a buffer, and as SAFE_PATH, which ssh does not pass on
        "-m",
        "neuroimagen.launch.nodes.agent",
        *([f"--store-port={store_port}"] if job.is_local else [f"--gate={job.address}", f"--port={job.port}"]),
        f"--node-rank={node_rank}",
        "--nodes=" + ",".join(f"{node.host}={node.num_ranks}" for node in job.nodes),
        f"--logs={job.log_folder}",
        *(["--cpu"] if job.cpu else []),
        *(f"--export={value}" for value in job.exports),
        f"--module={job.module}",
        "--",
        *job.arguments,
    ]


def torchrun_command(job: Job) -> list[str]:
    """What starts the ranks of this machine without `neuroimagen launch`, to be typed in a shell."""
    options = (f"--nproc-per-node={job.num_ranks}", f"--log-dir={job.log_folder}", "--redirects=3", "--module", "--")
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", *options, job.module, *job.arguments]


def _remote(job: Job, node_rank: int | str) -> str:
    return f"cd {shlex.quote(str(job.folder))} && exec {shlex.join(node_command(job, node_rank))}"


def pdsh_command(job: Job) -> list[str]:
    """One pdsh command that starts every node: it runs ssh for each, and replaces %h and %n by host and rank.

    The job's token goes through ssh's standard input, which pdsh's own ssh module does not pass on.
    """
    hosts = ",".join(node.host for node in job.nodes)
    remote = _remote(job, "NODE_RANK").replace("%", "%%").replace("--node-rank=NODE_RANK", "--node-rank=%n")
    ssh = f'printf "%%s\\n" "${TOKEN_VARIABLE}" | exec ssh {shlex.join(_SSH_OPTIONS)} "$0" "$1"'
    return ["pdsh", "-N", "-S", "-R", "exec", "-f", str(MAX_FAN_OUT), "-w", hosts, "sh", "-c", ssh, "%h", remote]


def ssh_commands(job: Job) -> list[list[str]]:
    """One ssh command per node, which reads the job's token on its standard input."""
    return [["ssh", *_SSH_OPTIONS, node.host, _remote(job, rank)] for rank, node in enumerate(job.nodes)]


def srun_command(job: Job) -> list[str]:
    """One srun over the allocation. SLURM sets each node's rank in SLURM_NODEID and passes the whole environment on."""
    words = shlex.join(node_command(job, "SLURM_RANK")).replace("--node-rank=SLURM_RANK", '--node-rank="$SLURM_NODEID"')
    return [
        "srun",
        f"--nodes={len(job.nodes)}",
        "--ntasks-per-node=1",
        "--kill-on-bad-exit=0",  # the launcher decides what an early end of a node means
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
