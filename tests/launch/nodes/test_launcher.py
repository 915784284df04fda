"""The launcher over a real store; the nodes are scripted, and run no ranks."""

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch.distributed as dist

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.launch.nodes import launcher
from neuroimagen.launch.nodes.board import Board, versions
from neuroimagen.launch.nodes.causes import JobFailedError
from neuroimagen.launch.nodes.hosts import Node
from neuroimagen.launch.nodes.job import Job, free_port
from neuroimagen.launch.nodes.launcher import run_job
from neuroimagen.trainer.runs.rank_status import write_status

TOKEN = b"the token of this test"
Script = Callable[[Board, int], None]
"""What a node does once it is told to begin: with its board and its number."""


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "DEATH_GRACE_SECONDS", 0.5)
    monkeypatch.setattr(launcher, "REPORT_SECONDS", 0.5)
    monkeypatch.setattr(launcher, "SILENCE_SECONDS", 2.0)
    monkeypatch.setattr(launcher, "QUIET_SECONDS", 0.4)


class Scripted:
    """A job whose nodes follow scripts: those of the first start, of the second, and so on."""

    def __init__(self, folder: Path, *starts: Sequence[Script], skew: dict[str, str] | None = None) -> None:
        nodes = tuple(Node(host=f"n{k}", num_ranks=1) for k in range(len(starts[0])))
        self.job = Job(module="m", arguments=(), nodes=nodes, log_folder=folder, port=free_port())
        self.said: list[str] = []
        self.verdicts: list[int] = []
        self._starts = iter(starts)
        self._skew = skew or {}
        self._threads: list[threading.Thread] = []

    def run(self, *, max_restarts: int = 0, wait_seconds: float = 20) -> int | None:
        try:
            return run_job(
                self.job,
                self._commands,
                token=TOKEN,
                max_restarts=max_restarts,
                watch=lambda: None,
                say=lambda text: self.said.append(text.partition(" ")[2]),
                wait_seconds=wait_seconds,
            )
        finally:
            for thread in self._threads:
                thread.join(20)

    def _commands(self, port: int) -> list[list[str]]:
        for rank, script in enumerate(next(self._starts)):
            thread = threading.Thread(target=self._serve, args=(port, rank, script), daemon=True)
            self._threads.append(thread)
            thread.start()
        return []

    def _serve(self, port: int, rank: int, script: Script) -> None:
        board = Board(dist.TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False), TOKEN)
        board.put(f"hello/{rank}", {"versions": versions() | (self._skew if rank else {})})
        try:
            while board.get("begin") is None and board.get("verdict") is None:
                time.sleep(0.01)
            script(board, rank)
            while (verdict := board.get("verdict")) is None:
                board.count(f"beat/{rank}")
                time.sleep(0.05)
            self.verdicts.append(verdict["code"])
            board.count("left")
        except RuntimeError:  # the store is gone
            return


def done(board: Board, rank: int, *, attempt: int = 0) -> None:
    board.put(f"ended/{rank}", {"outcome": "done", "attempt": attempt})


def nothing(board: Board, rank: int) -> None:
    """Ranks that wait in a collective that can never end."""


def live(board: Board, rank: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        board.count(f"beat/{rank}")
        time.sleep(0.05)


def silent(board: Board, rank: int) -> None:
    time.sleep(4)


def fails(kind: str, message: str, *, number: int = 0) -> Script:
    def script(board: Board, rank: int) -> None:
        report = {"kind": kind, "message": message, "time": time.time(), "attempt": number}
        board.put(f"failure/{rank}/{number}", report)

    return script


def test_a_job_is_done_when_every_node_says_so(tmp_path: Path) -> None:
    job = Scripted(tmp_path, [done, done])
    assert job.run() is None
    assert job.verdicts == [0, 0]


def test_a_stranger_s_end_is_not_the_job_s(tmp_path: Path) -> None:
    """Who reaches the store, but does not know the token, says that all is done."""

    def forge(board: Board, rank: int) -> None:
        forger = Board(board._store, b"another token")
        forger.put("ended/0", {"outcome": "done", "attempt": 0})
        forger.put("ended/1", {"outcome": "done", "attempt": 0})
        fails("died", "rank 0 died")(board, rank)

    with pytest.raises(JobFailedError, match="rank 0 died"):
        Scripted(tmp_path, [forge, nothing]).run()


def test_a_dead_rank_is_named_before_the_others_consequences(tmp_path: Path) -> None:
    job = Scripted(tmp_path, [fails("failed", "connection reset"), fails("died", "rank 1 on n1 died"), nothing])
    with pytest.raises(JobFailedError, match="rank 1 on n1 died"):
        job.run()
    assert job.verdicts == [1, 1, 1]


def test_a_lost_node_is_the_cause_of_what_others_report(tmp_path: Path) -> None:
    """Their connections break at once; the silence of the lost one takes longer to notice."""
    with pytest.raises(JobFailedError, match=r"node 1 \(n1\) is lost"):
        Scripted(tmp_path, [fails("failed", "connection reset"), silent]).run()


def test_agents_restart_ranks_and_the_launcher_counts(tmp_path: Path) -> None:
    def recovers(board: Board, rank: int) -> None:
        fails("died", "rank 0 died.")(board, rank)
        live(board, rank, 1.5)
        fails("died", "rank 0 died again.", number=1)(board, rank)
        live(board, rank, 1.5)
        done(board, rank, attempt=2)

    def waits(board: Board, rank: int) -> None:
        live(board, rank, 3.5)
        done(board, rank, attempt=2)

    job = Scripted(tmp_path, [recovers, waits])
    assert job.run(max_restarts=2) is None
    assert job.said == ["rank 0 died. Restart 1 of 2.", "rank 0 died again. Restart 2 of 2."]
    with pytest.raises(JobFailedError, match="rank 0 died again"):
        Scripted(tmp_path, [recovers, waits]).run(max_restarts=1)


def test_restarts_that_succeed_at_once_are_counted_too(tmp_path: Path) -> None:
    """Two failures and the end, all before the first failure is judged."""

    def recovers(board: Board, rank: int) -> None:
        fails("died", "rank 0 died.")(board, rank)
        fails("died", "rank 0 died again.", number=1)(board, rank)
        done(board, rank, attempt=2)

    def follows(board: Board, rank: int) -> None:
        done(board, rank, attempt=2)

    job = Scripted(tmp_path, [recovers, follows])
    assert job.run(max_restarts=2) is None
    assert job.said == ["rank 0 died. Restart 1 of 2.", "rank 0 died again. Restart 2 of 2."]


def test_a_failure_after_another_node_s_end_starts_all_anew(tmp_path: Path) -> None:
    job = Scripted(tmp_path, [done, fails("died", "rank 1 died.")], [done, done])
    assert job.run(max_restarts=1) is None
    assert job.said == ["rank 1 died. Restart 1 of 1."]
    assert sorted(job.verdicts) == [0, 0, launcher.AGAIN_CODE, launcher.AGAIN_CODE]


def test_a_user_s_mistake_is_not_tried_again(tmp_path: Path) -> None:
    with pytest.raises(JobFailedError, match="the disk is full"):
        Scripted(tmp_path, [fails("refused", "the disk is full"), nothing]).run(max_restarts=5)


def test_a_silent_node_is_lost_named_and_waited_for(tmp_path: Path) -> None:
    with pytest.raises(JobFailedError, match=r"node 1 \(n1\) is lost: nothing is heard of it.*--resume"):
        Scripted(tmp_path, [nothing, silent]).run()
    job = Scripted(tmp_path, [nothing, silent], [done, done])
    assert job.run(max_restarts=1) is None
    assert "node 1 (n1) is lost" in job.said[0]


def test_other_versions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"node 0 \(n0\) and node 1 \(n1\) differ: torch .* against 1\.0\."):
        Scripted(tmp_path, [done, done], skew={"torch": "1.0"}).run()


def test_a_stop_signal_reaches_every_node(tmp_path: Path) -> None:
    def stops(board: Board, rank: int) -> None:
        write_status(tmp_path, rank, "running")
        while board.get("stop") is None:
            board.count(f"beat/{rank}")
            time.sleep(0.01)
        live(board, rank, 0.5)
        board.put(f"ended/{rank}", {"outcome": "stopped", "attempt": 0})

    for seconds in (2.0, 2.1):  # SLURM's comes twice
        threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGUSR1)).start()
    assert Scripted(tmp_path, [stops, stops]).run() == signal.SIGUSR1


def test_a_stop_signal_before_the_ranks_run_ends_the_job_at_once(tmp_path: Path) -> None:
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
    began = time.monotonic()
    assert Scripted(tmp_path, [nothing, nothing]).run() == signal.SIGTERM
    assert time.monotonic() - began < launcher.STOP_GRACE_SECONDS


def test_a_node_that_never_comes_is_named(tmp_path: Path) -> None:
    nodes = (Node(host="n0", num_ranks=1),)
    job = Job(module="m", arguments=(), nodes=nodes, log_folder=tmp_path, port=free_port())

    def run(commands: list[list[str]]) -> None:
        run_job(
            job, lambda port: commands, token=TOKEN, max_restarts=0, watch=lambda: None, say=print, wait_seconds=0.3
        )

    with pytest.raises(UserError, match=r"node 0 \(n0\) did not report within 0 s\. Check that"):
        run([])
    with pytest.raises(UserError, match="ended with code 3 before node 0"):
        run([["bash", "-c", "exit 3"]])


def test_nodes_get_the_token_without_its_standing_in_a_command_line(tmp_path: Path) -> None:
    job = Job(module="m", arguments=(), nodes=(Node(host="n0", num_ranks=1),), log_folder=tmp_path)
    read = 'read line; echo "$line" > token; tr "\\0" "\\n" < /proc/$$/cmdline > words; exit 3'
    with pytest.raises(UserError, match="ended with code 3"):
        run_job(
            job,
            lambda port: [["bash", "-c", f"cd {tmp_path}; {read}"]],
            token=TOKEN,
            max_restarts=0,
            watch=lambda: None,
            say=print,
        )
    assert (tmp_path / "token").read_bytes() == TOKEN + b"\n"
    assert TOKEN.decode() not in (tmp_path / "words").read_text()
    assert TOKEN not in (tmp_path / "job.log").read_bytes()
