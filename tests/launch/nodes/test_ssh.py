"""Nodes that real pdsh and ssh start, through real sshds in network namespaces."""

import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import network_nodes
import psutil
import pytest
from network_nodes import Nodes
from real_jobs import left_behind, wait_for_step, weights

from neuroimagen.launch.nodes.gate import TOKEN_VARIABLE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
LOGIN = 2
"""The node on which the command is typed."""


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Nodes, dict[str, str]]]:
    """Two nodes with an sshd each, and a third; the environment in which ssh on the third gets to them."""
    sshd = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/sbin")
    if sshd is None or shutil.which("ssh") is None:
        pytest.skip("sshd is not installed (apt-get install openssh-server)")
    folder = tmp_path_factory.mktemp("ssh")
    for name in ("host", "user"):
        words = ("-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
        subprocess.run(["ssh-keygen", *words], check=True)
    shutil.copy(folder / "user.pub", folder / "authorized_keys")
    (folder / "ssh_config").write_text(
        f"IdentityFile {folder}/user\nStrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nLogLevel ERROR\n"
    )
    path = os.environ.get("PYTHONPATH", str(Path(__file__).resolve().parents[3]))
    (folder / "sshd_config").write_text(
        f"HostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nUsePAM no\n"
        f"PermitRootLogin yes\nPidFile none\nSetEnv PYTHONPATH={path} OMP_NUM_THREADS=1\n"
    )
    wrapper = folder / "bin" / "ssh"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {shlex.quote(str(folder))}/ssh_config "$@"\n')
    wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
    Path("/run/sshd").mkdir(exist_ok=True)
    with network_nodes.network_nodes(3) as made:
        servers = [
            subprocess.Popen(made.command(node, sshd, "-D", "-e", "-f", str(folder / "sshd_config")), stderr=log)
            for node in range(LOGIN)
            for log in [(folder / f"sshd-{node}.log").open("w")]
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{wrapper.parent}:{os.environ['PATH']}"}
        deadline = time.monotonic() + 20
        while any((22 not in [port for _, port in made.listening(node)]) for node in range(LOGIN)):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        try:
            yield made, environment
        finally:
            for server in servers:
                server.terminate()
                server.wait()


def start(
    nodes: tuple[Nodes, dict[str, str]], recipe: Path, run: Path, via: str, *options: str
) -> subprocess.Popen[str]:
    made, environment = nodes
    hostfile = run.parent / "hosts"
    hostfile.write_text("".join(f"{address} slots=1\n" for address in made.addresses[:LOGIN]))
    settings = ("steps=120", "checkpoint_every=20", "log_every=1")
    command = made.command(
        LOGIN,
        *(sys.executable, "-m", "neuroimagen.launch.cli", "launch", "--hostfile", str(hostfile), "--via", via),
        *(*options, "--", "train", "contrastive", "--config", str(recipe), "--run", str(run), "--resume"),
        *("--set", *(f"contrastive.{setting}" for setting in settings)),
    )
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def token_of(job: subprocess.Popen[str]) -> str:
    """The job's token, from the environment of a program that the launcher started."""
    for child in psutil.Process(job.pid).children(recursive=True):
        if (token := child.environ().get(TOKEN_VARIABLE)) is not None:
            return token
    raise AssertionError("no program has the token")


@pytest.mark.parametrize("via", ["pdsh", "ssh"])
def test_a_job_over_ssh_and_a_node_that_dies(
    nodes: tuple[Nodes, dict[str, str]], job_recipe: Path, tmp_path: Path, via: str
) -> None:
    if shutil.which(via) is None:
        pytest.skip(f"{via} is not installed (apt-get install pdsh openssh-client)")
    whole = start(nodes, job_recipe, tmp_path / "whole", via)
    wait_for_step(tmp_path / "whole", 10, whole)
    token = token_of(whole)
    assert len(token) == 64
    lines = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert any("neuroimagen.launch.nodes.agent" in line for line in lines)
    assert not any(token in line for line in lines)
    said = whole.communicate(timeout=900)[0]
    assert whole.returncode == 0, said
    written = [path for path in (tmp_path / "whole").rglob("*") if path.is_file()]
    assert not any(token.encode() in path.read_bytes() for path in written)

    run = tmp_path / "killed"
    job = start(nodes, job_recipe, run, via, "--max-restarts", "1")
    wait_for_step(run, 50, job)
    servers = {process.pid for process in psutil.process_iter(["name"]) if process.info["name"] == "sshd"}
    for pid in map(int, network_nodes.ip("netns", "pids", nodes[0].names[1]).stdout.split()):
        if pid not in servers:
            os.kill(pid, signal.SIGKILL)
    said = job.communicate(timeout=900)[0]
    assert job.returncode == 0, said
    assert f"node 1 ({nodes[0].addresses[1]}) is lost: " in said
    assert "Restart 1 of 1." in said
    assert weights(run) == weights(tmp_path / "whole")
    assert left_behind(run) == []
