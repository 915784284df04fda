"""The commands that start nodes, without starting any."""

import os
import shlex
import stat
import subprocess
import time
from dataclasses import replace
from pathlib import Path

from neuroimagen.launch.nodes.agent import _parser
from neuroimagen.launch.nodes.gate import TOKEN_VARIABLE
from neuroimagen.launch.nodes.hosts import Node
from neuroimagen.launch.nodes.job import Job
from neuroimagen.launch.nodes.starters import (
    SlurmRequest,
    node_command,
    passed_on,
    pdsh_command,
    sbatch_script,
    srun_command,
    ssh_commands,
)

JOB = Job(
    module="a.b",
    arguments=("x", "--run", "dir with space", "100 %h"),
    nodes=(Node(host="n1", num_ranks=2), Node(host="fe80::1", num_ranks=3)),
    address="10.0.0.1",
    port=4000,
    log_folder=Path("/logs of it"),
    exports=("NCCL_DEBUG=INFO", "A=b c"),
    folder=Path("/home/me/my project"),
)


def test_a_node_reads_its_command() -> None:
    args = _parser().parse_args(node_command(JOB, 1)[4:])
    assert (args.gate, args.port, args.store_port, args.node_rank) == ("10.0.0.1", 4000, None, 1)
    assert args.nodes == "n1=2,fe80::1=3"
    assert args.logs == JOB.log_folder
    assert args.export == list(JOB.exports)
    assert (args.module, args.arguments) == ("a.b", list(JOB.arguments))
    assert not args.cpu
    assert _parser().parse_args(node_command(replace(JOB, cpu=True), 1)[4:]).cpu
    args = _parser().parse_args(node_command(replace(JOB, port=0), 0, store_port=77)[4:])
    assert (args.gate, args.store_port) == (None, 77)


def printing(folder: Path, name: str) -> dict[str, str]:
    """An environment in which the program `name` prints its words and its standard input."""
    program = folder / "bin" / name
    program.parent.mkdir(exist_ok=True)
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\ncat\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", TOKEN_VARIABLE: "the token"}


def test_pdsh_runs_ssh_which_gets_the_token_on_its_standard_input(tmp_path: Path) -> None:
    pdsh = pdsh_command(JOB)
    assert pdsh[:9] == ["pdsh", "-N", "-S", "-R", "exec", "-f", "1024", "-w", "n1,fe80::1"]
    assert "the token" not in shlex.join(pdsh)
    # As pdsh replaces them for the second host.
    words = [word.replace("%h", "fe80::1", word == "%h").replace("%n", "1").replace("%%", "%") for word in pdsh[9:]]
    shown = subprocess.run(words, env=printing(tmp_path, "ssh"), capture_output=True, text=True, check=True)
    lines = shown.stdout.splitlines()
    assert lines[:3] == ["-o", "BatchMode=yes", "fe80::1"]
    remote = shlex.split(lines[3])
    assert remote[:4] == ["cd", "/home/me/my project", "&&", "exec"]
    assert remote[4:] == node_command(JOB, 1)
    assert lines[4:] == ["the token"]


def test_ssh_and_srun_quote_what_a_shell_would_split() -> None:
    second = ssh_commands(JOB)[1]
    assert second[-2] == "fe80::1"
    assert shlex.split(second[-1])[4:] == node_command(JOB, 1)
    srun = srun_command(JOB)
    assert "--nodelist=n1,fe80::1" in srun
    shown = subprocess.run(
        ["bash", "-c", srun[-1].replace("exec ", "printf '%s\\n' ", 1)],
        env={**os.environ, "SLURM_NODEID": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.splitlines() == node_command(JOB, 1)


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
