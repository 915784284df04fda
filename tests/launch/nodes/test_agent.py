"""PyTorch's agent on this machine, with small ranks: restarts, causes, stop signals, and what is left behind."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from neuroimagen.launch.nodes.agent import NodeAgent
from neuroimagen.launch.nodes.causes import JobFailedError
from neuroimagen.launch.nodes.hosts import Node
from neuroimagen.launch.nodes.job import Job
from neuroimagen.launch.nodes.launcher import run_job
from neuroimagen.launch.nodes.starters import node_command
from neuroimagen.trainer.runs.rank_status import read_statuses

TOKEN = b"the token of this test"
BEGIN = """
import os, signal, sys, time
from pathlib import Path
from neuroimagen.trainer.runs.rank_status import write_status

folder = Path(sys.argv[1])
rank = int(os.environ["RANK"])
attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])

def stop(signum, frame):
    write_status(folder, rank, "stopped")
    os._exit(0)

signal.signal(signal.SIGTERM, stop)
write_status(folder, rank, "running")
"""
END = """
write_status(folder, rank, "done")
"""


class Ranks:
    """Two ranks that run a script."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
        (folder / "a_rank.py").write_text(BEGIN + script + END)
        monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        self.logs = folder / "logs"
        self.said: list[str] = []
        nodes = (Node(host="localhost", num_ranks=2),)
        self.job = Job(module="a_rank", arguments=(str(self.logs),), nodes=nodes, log_folder=self.logs)

    def run(self, *, max_restarts: int = 0) -> int | None:
        return run_job(
            self.job,
            lambda port: [node_command(self.job, 0, store_port=port)],
            token=TOKEN,
            max_restarts=max_restarts,
            watch=lambda: None,
            say=self.said.append,
        )

    def left_behind(self) -> list[int]:
        """Processes that still run the script."""
        found = []
        for process in psutil.process_iter(["pid", "cmdline", "status"]):
            words = process.info["cmdline"] or []
            if str(self.logs) in words and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process.info["pid"])
        return found


def test_ranks_have_their_place_and_not_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = """
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "GLOO_SOCKET_IFNAME")
print(*(f"{name}={os.environ[name]}" for name in names))
assert os.environ["PYTHONSAFEPATH"] == "1"
assert "the token of this test" not in " ".join(os.environ.values())
"""
    ranks = Ranks(tmp_path, monkeypatch, script)
    assert ranks.run() is None
    lines = (ranks.logs / "job.log").read_text().splitlines()
    for rank in (0, 1):
        words = f"RANK={rank} LOCAL_RANK={rank} WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 GLOO_SOCKET_IFNAME=lo"
        assert sum(line.endswith(f"rank {rank} | {words}") for line in lines) == 1
    assert ranks.left_behind() == []


def test_everything_of_one_machine_listens_on_the_loopback_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = """
import json, psutil, torch.distributed as dist
dist.init_process_group("gloo")
dist.barrier()
agent = psutil.Process().parent()
processes = [agent.parent(), agent, *agent.children()]
listening = [tuple(c.laddr) for p in processes for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]
(folder / f"listening-{rank}.json").write_text(json.dumps(listening))
dist.barrier()
"""
    ranks = Ranks(tmp_path, monkeypatch, script)
    # What earlier tests left open in this process is not the job's.
    before = {c.laddr.port for c in psutil.Process().net_connections("inet") if c.status == psutil.CONN_LISTEN}
    with monkeypatch.context() as patch:
        patch.delenv("GLOO_SOCKET_IFNAME", raising=False)
        assert ranks.run() is None
    found = json.loads((ranks.logs / "listening-0.json").read_text())
    listening = [address for address, port in found if port not in before]
    assert len(listening) >= 3  # the store, and gloo of two ranks
    assert {address.removeprefix("::ffff:") for address in listening} <= {"127.0.0.1", "::1"}


@pytest.mark.slow
def test_a_killed_rank_is_named_and_all_are_restarted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others, which wait for it in vain, are killed; the restart meets in a store without what they left."""
    script = """
import torch.distributed as dist
dist.init_process_group("gloo")
print("attempt", attempt)
if attempt < 2:
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
"""
    ranks = Ranks(tmp_path, monkeypatch, script)
    assert ranks.run(max_restarts=2) is None
    assert [text.partition(" ")[2].partition(" (")[0] for text in ranks.said] == [
        "rank 1 exited without an error message"
    ] * 2
    assert [text[-15:] for text in ranks.said] == ["Restart 1 of 2.", "Restart 2 of 2."]
    lines = (ranks.logs / "job.log").read_text().splitlines()
    assert [sum(f"rank 1 | attempt {k}" in line for line in lines) for k in range(3)] == [1, 1, 1]
    assert ranks.left_behind() == []


def test_a_user_s_mistake_ends_the_job_with_its_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = """
if rank == 1:
    write_status(folder, rank, "refused", "the disk is full")
    sys.exit(1)
time.sleep(600)
"""
    ranks = Ranks(tmp_path, monkeypatch, script)
    with pytest.raises(JobFailedError, match=r"^the disk is full$"):
        ranks.run(max_restarts=3)
    assert ranks.said == []
    assert ranks.left_behind() == []


def test_an_error_file_has_the_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the workers leave it, by PyTorch's `record`."""
    script = """
from torch.distributed.elastic.multiprocessing.errors import record

def fails():
    write_status(folder, rank, "failed", "ZeroDivisionError: by zero")
    1 / 0

record(fails)()
"""
    ranks = Ranks(tmp_path, monkeypatch, script)
    with pytest.raises(JobFailedError, match=r"^rank \d failed: ZeroDivisionError: by zero \(log: "):
        ranks.run()
    (path,) = ranks.logs.glob("node-0/*/attempt_0/0/error.json")
    assert "in fails" in json.loads(path.read_text())["message"]["extraInfo"]["py_callstack"]


WAITS = """
time.sleep(600)
"""


def test_ranks_have_two_minutes_to_save(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever PyTorch's own time is: 30 s up to 2.11, where it is not an argument."""
    closed: list[tuple[object, ...]] = []

    class Processes:
        def close(self, *how: object) -> None:
            closed.append(how)

    agent = object.__new__(NodeAgent)
    agent._pcontext, agent._worker_watchdog, agent._health_check_server = Processes(), None, None  # type: ignore[assignment]
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    agent._shutdown(signal.SIGTERM)
    assert closed[0] == (signal.SIGTERM, 120)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_stop_signal_reaches_every_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signum: signal.Signals
) -> None:
    ranks = Ranks(tmp_path, monkeypatch, WAITS)
    in_time = threading.Event()

    def send() -> None:
        while len(read_statuses(ranks.logs)) < 2 and not in_time.wait(0.05):
            pass
        os.kill(os.getpid(), signum)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        assert ranks.run() == signum
    finally:
        in_time.set()
        thread.join()
    assert [status.state for status in read_statuses(ranks.logs)] == ["stopped", "stopped"]
    assert ranks.left_behind() == []


def test_a_killed_agent_is_a_loss_and_the_job_starts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """kill -9 of the program between the launcher and the ranks."""
    script = """
from neuroimagen.data_shards.common.parent_death import end_with_parent
end_with_parent(signal.SIGKILL)
if not (folder / "killed").exists():
    if rank == 0:
        time.sleep(1)
        (folder / "killed").touch()
        os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)
"""
    ranks = Ranks(tmp_path, monkeypatch, script)
    assert ranks.run(max_restarts=1) is None
    assert "the program that watches the ranks was killed" in ranks.said[0]
    deadline = time.monotonic() + 10
    while ranks.left_behind() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ranks.left_behind() == []
