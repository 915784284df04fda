"""Real jobs of two nodes: network namespaces on this machine, each with its own address, and a stranger in a third."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import network_nodes
import pytest
from network_nodes import Nodes
from real_jobs import left_behind, step_of, wait_for_step, weights

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
STRANGER = 2


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with network_nodes.network_nodes(3) as made:
        yield made


def start(nodes: Nodes, recipe: Path, run: Path, *options: str) -> list[subprocess.Popen[str]]:
    """The same command on two nodes, as in containers without ssh."""
    hostfile = run.parent / "hosts"
    hostfile.write_text("".join(f"{address} slots=1\n" for address in nodes.addresses[:STRANGER]))
    settings = ("steps=400", "validate_every=200", "log_every=1", "checkpoint_every=25")
    jobs = []
    for node in range(STRANGER):
        command = nodes.command(
            node,
            *(sys.executable, "-m", "neuroimagen.launch.cli", "launch", "--hostfile", str(hostfile)),
            *("--no-ssh", "--node-rank", str(node), *options, "--"),
            *("train", "contrastive", "--config", str(recipe), "--run", str(run), "--resume"),
            *("--set", *(f"contrastive.{setting}" for setting in settings)),
        )
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "NEUROIMAGEN_JOB_TOKEN": "a secret of this test only"}
        jobs.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
    return jobs


def finish(jobs: list[subprocess.Popen[str]]) -> tuple[list[int], list[str]]:
    said = [job.communicate(timeout=900)[0] for job in jobs]
    return [job.returncode for job in jobs], said


@pytest.fixture(scope="module")
def whole(nodes: Nodes, job_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbs but a stranger, who speaks to every port of both nodes from beginning to end."""
    run = tmp_path_factory.mktemp("whole") / "run"
    jobs = start(nodes, job_recipe, run)
    script = str(Path(network_nodes.__file__))
    num_accepted = 0
    while all(job.poll() is None for job in jobs):
        for node in range(STRANGER):
            ports = {str(port) for address, port in nodes.listening(node) if not address.startswith(("127.", "[::1]"))}
            if ports:
                words = (sys.executable, script, nodes.addresses[node], "50", *ports)
                num_accepted += int(nodes.run(STRANGER, *words))
        time.sleep(0.05)
    codes, said = finish(jobs)
    assert codes == [0, 0], "\n".join(said)
    assert num_accepted > 500
    steps = [json.loads(line)["step"] for line in (run / "contrastive" / "metrics.jsonl").read_text().splitlines()]
    assert steps[-1] == 400
    assert left_behind(run) == []
    return run


def test_a_stranger_changes_nothing_and_the_secret_is_nowhere(whole: Path) -> None:
    logs = whole / "contrastive" / "logs"
    lines = (logs / "job.log").read_text().splitlines()
    assert any(line.startswith(f"10.77.31.{node + 1} rank {node} | ") for line in lines for node in (0, 1))
    written = [path for path in whole.rglob("*") if path.is_file()]
    assert not any(b"a secret of this test only" in path.read_bytes() for path in written)


def test_a_node_that_is_cut_off_is_named_and_the_job_resumes(
    nodes: Nodes, whole: Path, job_recipe: Path, tmp_path: Path
) -> None:
    run = tmp_path / "cut"
    jobs = start(nodes, job_recipe, run)
    wait_for_step(run, 60, jobs[0])
    nodes.cut_off(1)
    began = time.monotonic()
    codes, said = finish(jobs)
    assert time.monotonic() - began < 60
    assert codes == [1, 1], "\n".join(said)
    assert f"node 1 ({nodes.addresses[1]}) is lost: " in said[0]
    assert "--resume" in said[0]
    assert "node 1: the connection to the launcher is lost" in said[1]
    assert left_behind(run) == []

    nodes.join(1)
    jobs = start(nodes, job_recipe, run, "--max-restarts", "1")
    wait_for_step(run, 200, jobs[0])
    nodes.cut_off(1)
    time.sleep(20)
    nodes.join(1)
    codes, said = finish(jobs)
    assert codes == [0, 0], "\n".join(said)
    assert f"node 1 ({nodes.addresses[1]}) is lost: " in said[0]
    assert "Restart 1 of 1." in said[0]
    assert weights(run) == weights(whole)
    assert left_behind(run) == []


def test_a_stop_signal_saves_on_both_nodes(nodes: Nodes, whole: Path, job_recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "stopped"
    for node, least in ((0, 30), (1, 100)):  # a signal to the launcher, and one to the other node
        jobs = start(nodes, job_recipe, run)
        wait_for_step(run, least, jobs[0])
        jobs[node].send_signal(signal.SIGTERM)
        codes, said = finish(jobs)
        assert codes[0] == 128 + signal.SIGTERM, said
        assert "stopped on request" in said[0]
        newest = (run / "contrastive" / "checkpoints" / "latest").read_text().strip()
        assert int(newest.rpartition("-")[2]) == step_of(run) >= least
        assert left_behind(run) == []
    codes, said = finish(start(nodes, job_recipe, run))
    assert codes == [0, 0], "\n".join(said)
    assert weights(run) == weights(whole)


@pytest.mark.parametrize("victim", ["launcher", "node", "agent"])
def test_killed_programs_leave_no_orphan_and_change_no_bit(
    nodes: Nodes, whole: Path, job_recipe: Path, tmp_path: Path, victim: str
) -> None:
    """kill -9 of the launcher; of everything on node 1; of the program that watches node 1's ranks."""
    run = tmp_path / victim
    jobs = start(nodes, job_recipe, run)
    wait_for_step(run, 60, jobs[0])
    if victim == "launcher":
        jobs[0].kill()
    elif victim == "agent":
        (agent,) = nodes.run(1, "pgrep", "-P", str(jobs[1].pid)).split()
        os.kill(int(agent), signal.SIGKILL)
    else:
        for pid in subprocess.run(
            ["ip", "netns", "pids", nodes.names[1]], capture_output=True, text=True
        ).stdout.split():
            os.kill(int(pid), signal.SIGKILL)
    began = time.monotonic()
    codes, said = finish(jobs)
    assert time.monotonic() - began < 60
    assert codes[0] == (-signal.SIGKILL if victim == "launcher" else 1), said
    deadline = time.monotonic() + 60
    while left_behind(run) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left_behind(run) == []
    if victim != "launcher":
        assert f"node 1 ({nodes.addresses[1]}) is lost: " in said[0]
    codes, said = finish(start(nodes, job_recipe, run))
    assert codes == [0, 0], "\n".join(said)
    assert weights(run) == weights(whole)


def test_another_token_is_named_on_both_nodes(
    nodes: Nodes, job_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostfile = tmp_path / "hosts"
    hostfile.write_text("".join(f"{address} slots=1\n" for address in nodes.addresses[:STRANGER]))
    jobs = []
    for node in range(STRANGER):
        words = ("--no-ssh", "--node-rank", str(node), "--wait", "20", "--", "train", "contrastive")
        command = (sys.executable, "-m", "neuroimagen.launch.cli", "launch", "--hostfile", str(hostfile), *words)
        where = ("--config", str(job_recipe), "--run", str(tmp_path / "run"))
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "NEUROIMAGEN_JOB_TOKEN": f"token of node {node} alone"}
        pipe = subprocess.PIPE
        jobs.append(
            subprocess.Popen(
                nodes.command(node, *command, *where), env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True
            )
        )
    codes, said = finish(jobs)
    assert codes == [1, 1]
    assert "did not report within 20 s. 1 connections without the job's token were refused." in said[0]
    assert "has another token than this node. Set NEUROIMAGEN_JOB_TOKEN" in said[1]
