"""A real job of two nodes: two network namespaces on this machine, each with its own address and its own rank."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ADDRESSES = ("10.77.31.1", "10.77.31.2")
NAMESPACES = ("neuroimagen-a", "neuroimagen-b")


def ip(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=False)


@pytest.fixture
def two_nodes() -> Iterator[None]:
    """Two namespaces, joined by a pair of virtual interfaces; skipped where this user may not make them."""
    if shutil.which("ip") is None:
        pytest.skip("iproute2 is not installed")
    made = ip("netns", "add", NAMESPACES[0])
    if made.returncode != 0:
        pytest.skip(f"network namespaces are not permitted here: {made.stderr.strip()}")
    try:
        ip("netns", "add", NAMESPACES[1])
        ip(
            "link",
            "add",
            "ni-a",
            "netns",
            NAMESPACES[0],
            "type",
            "veth",
            "peer",
            "name",
            "ni-b",
            "netns",
            NAMESPACES[1],
        )
        for namespace, address, name in zip(NAMESPACES, ADDRESSES, ("ni-a", "ni-b"), strict=True):
            ip("-n", namespace, "address", "add", f"{address}/24", "dev", name)
            ip("-n", namespace, "link", "set", "lo", "up")
            ip("-n", namespace, "link", "set", name, "up")
        yield
    finally:
        for namespace in NAMESPACES:
            ip("netns", "delete", namespace)


def start(folder: Path, recipe: Path, run: Path, *settings: str) -> list[subprocess.Popen[str]]:
    """The same command on both nodes, as in containers without ssh."""
    hostfile = folder / "hosts"
    hostfile.write_text("".join(f"{address} slots=1\n" for address in ADDRESSES))
    jobs = []
    for node_rank, namespace in enumerate(NAMESPACES):
        command = [
            *("ip", "netns", "exec", namespace, sys.executable, "-m", "neuroimagen.launch.cli", "launch"),
            *("--hostfile", str(hostfile), "--no-ssh", "--node-rank", str(node_rank), "--"),
            *("train", "contrastive", "--config", str(recipe), "--run", str(run), "--resume"),
            *("--set", "contrastive.log_every=1", "contrastive.checkpoint_every=25", *settings),
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        jobs.append(subprocess.Popen(command, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True))
    return jobs


def finish(jobs: list[subprocess.Popen[str]]) -> tuple[list[int], list[str]]:
    said = [job.communicate(timeout=1500)[0] for job in jobs]
    return [job.returncode for job in jobs], said


def wait_for(text: str, path: Path, jobs: list[subprocess.Popen[str]]) -> None:
    while not (path.exists() and text in path.read_text()):
        assert all(job.poll() is None for job in jobs), finish(jobs)
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_nodes_train_and_one_that_is_cut_off_is_named(two_nodes: None, job_recipe: Path, tmp_path: Path) -> None:
    settings = ("contrastive.steps=500", "contrastive.validate_every=250")
    whole = tmp_path / "whole"
    codes, said = finish(start(tmp_path, job_recipe, whole, *settings))
    assert codes == [0, 0], said
    assert (whole / "contrastive" / "export" / "model.safetensors").is_file()

    run = tmp_path / "cut"
    jobs = start(tmp_path, job_recipe, run, *settings)
    wait_for('"step": 60,', run / "contrastive" / "metrics.jsonl", jobs)
    ip("-n", NAMESPACES[1], "link", "set", "ni-b", "down")
    began = time.monotonic()
    codes, said = finish(jobs)
    assert time.monotonic() - began < 120
    assert codes == [1, 1], said
    assert f"node 1 ({ADDRESSES[1]}) is lost: " in said[0]
    assert "--resume" in said[0]
    assert "node 1: the connection to the coordinator is lost: " in said[1]
    logs = run / "contrastive" / "logs"
    assert any(" 10.77.31.2 rank 1 | " in line for line in (logs / "job.log").read_text().splitlines())

    ip("-n", NAMESPACES[1], "link", "set", "ni-b", "up")
    codes, said = finish(start(tmp_path, job_recipe, run, *settings))
    assert codes == [0, 0], said
    name = "contrastive/export/model.safetensors"
    assert (run / name).read_bytes() == (whole / name).read_bytes()
