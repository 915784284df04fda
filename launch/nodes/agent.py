"""One node of a job: python -m neuroimagen.launch.nodes.agent …, started on every node by `neuroimagen launch`.

PyTorch's elastic agent starts this node's ranks, watches them, and restarts them together with those of the other
nodes. Around it, this program reports to the launcher, and ends the ranks when the launcher says so or is lost.
"""

import argparse
import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.launch.nodes.board import Board, Message, versions
from neuroimagen.launch.nodes.causes import JobFailedError, node_failure
from neuroimagen.launch.nodes.gate import TOKEN_VARIABLE, Entrance
from neuroimagen.launch.nodes.hosts import interface_towards, machine, parse_hostfile
from neuroimagen.launch.nodes.job import AGAIN_CODE, LOOPBACK, STOP_SIGNALS, Job, given_devices, rank_environment
from neuroimagen.launch.nodes.rendezvous import rendezvous
from neuroimagen.trainer.runs.rank_status import clear_statuses, read_statuses

STOP_GRACE_SECONDS = 120
"""Time that ranks have to save and exit after a stop signal, before they are killed."""
DEATH_GRACE_SECONDS = 5.0
"""Time that the other ranks have to exit after one has died."""
LOST_GRACE_SECONDS = 30.0
"""Time that the ranks have to save and exit after the launcher was lost."""
BEAT_SECONDS = 0.5


class NodeAgent(LocalElasticAgent):
    """PyTorch's agent, which also says why ranks failed, and does not repeat what only the user can correct."""

    def __init__(self, job: Job, node_rank: int, board: Board, spec: WorkerSpec) -> None:
        host = "" if job.is_local else f"{job.nodes[node_rank].host} "
        super().__init__(
            spec,
            DefaultLogsSpecs(log_dir=str(job.log_folder / f"node-{node_rank}"), tee=Std.ALL),
            exit_barrier_timeout=5,
            log_line_prefix_template=f"{host}rank ${{rank}} | ",
        )
        self._job, self._node_rank, self._board = job, node_rank, board
        self._where = "" if job.is_local else f" on {job.nodes[node_rank].host}"
        self._starting = threading.Lock()
        self._num_failures = self.num_restarts = 0

    def statuses(self) -> list[Any]:
        return read_statuses(self._job.log_folder, self._job.ranks_of(self._node_rank))

    def stop(self) -> None:
        """Ask every rank of this node to save and exit."""
        self._signal(signal.SIGTERM)

    def leave(self, code: int) -> None:
        """Kill every rank of this node, and end this process."""
        with self._starting:
            self._signal(signal.SIGKILL)
            os._exit(code)

    def is_running(self) -> bool:
        """Whether a rank of this node runs."""
        return any(process.poll() is None for process in self._processes().values())

    def _processes(self) -> "dict[int, subprocess.Popen[bytes]]":
        """The ranks' processes by local rank."""
        context: Any = self._pcontext
        return {local: handler.proc for local, handler in context.subprocess_handlers.items()} if context else {}

    def _signal(self, signum: int) -> None:
        for process in self._processes().values():
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signum)

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        with self._starting:
            clear_statuses(self._job.log_folder, self._job.ranks_of(self._node_rank))
            return super()._start_workers(worker_group)

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        codes = self._failed_ranks(worker_group)
        result = super()._monitor_workers(worker_group)
        if result.state == WorkerState.FAILED:
            error = node_failure(self.statuses(), codes, logs=self._job.log_folder, where=self._where)
            report = {**error.report, "attempt": self.num_restarts}
            self._board.put(f"failure/{self._node_rank}/{self._num_failures}", report)
            self._num_failures += 1
            if not error.can_restart:
                self._remaining_restarts = 0
        return result

    def _failed_ranks(self, worker_group: WorkerGroup) -> dict[int, int]:
        """Rank → exit code of the ranks that have failed, in the order in which they ended.

        The others then have DEATH_GRACE_SECONDS to say why and to exit, and are killed: they may wait in a collective
        that can never end.
        """
        processes = self._processes()
        codes: dict[int, int] = {}
        deadline: float | None = None
        while True:
            alive = 0
            for worker in worker_group.workers:
                code = processes[worker.local_rank].poll()
                alive += code is None
                if code:
                    codes.setdefault(worker.global_rank, code)
            if not codes or not alive:
                return codes
            deadline = deadline or time.monotonic() + DEATH_GRACE_SECONDS
            if time.monotonic() > deadline:
                self._signal(signal.SIGKILL)
                return codes
            time.sleep(0.1)

    def _restart_workers(self, worker_group: WorkerGroup) -> None:
        # Every restart has a number, the same on all nodes: logs are named by it.
        self.num_restarts += 1
        self._remaining_restarts = max(0, worker_group.spec.max_restarts - self.num_restarts)
        super()._restart_workers(worker_group)

    def _stop_workers(self, worker_group: WorkerGroup, *more: Any) -> None:
        # Ranks that wait for one that is gone cannot save: they would use up the time for it.
        self._shutdown(signal.SIGKILL)

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = 30) -> None:
        if death_sig != signal.SIGKILL:  # the end: PyTorch's handlers would interrupt it at the next signal
            for signum in STOP_SIGNALS:
                signal.signal(signum, signal.SIG_IGN)
            if self._pcontext is not None:  # PyTorch up to 2.11 gives them 30 s, and cannot be told otherwise
                self._pcontext.close(death_sig, STOP_GRACE_SECONDS)
        super()._shutdown(death_sig)


class Link(threading.Thread):
    """Tells the launcher that this node lives, and does what the launcher says."""

    def __init__(self, board: Board, node_rank: int) -> None:
        super().__init__(name="neuroimagen-link", daemon=True)
        self._board, self._node_rank = board, node_rank
        self.agent: NodeAgent | None = None
        """Set before ranks are started."""

    def run(self) -> None:
        is_stopping = False
        try:
            while (verdict := self._board.get("verdict")) is None:
                self._board.count(f"beat/{self._node_rank}")
                if not is_stopping and self.agent and self._board.get("stop") is not None:
                    is_stopping = True
                    self.agent.stop()
                time.sleep(BEAT_SECONDS)
            self._board.count("left")
            self._leave(int(verdict["code"]))
        except RuntimeError as error:  # every error of the store
            print(
                f"node {self._node_rank}: the connection to the launcher is lost "
                f"({str(error).partition(chr(10))[0][:200]}). This node's ranks were ended.",
                file=sys.stderr,
                flush=True,
            )
            if self.agent is not None:
                # The ranks may still reach each other, where it is the launcher alone that is gone: they save together.
                self.agent.stop()
                deadline = time.monotonic() + LOST_GRACE_SECONDS
                while self.agent.is_running() and time.monotonic() < deadline:
                    time.sleep(0.1)
            self._leave(AGAIN_CODE)

    def _leave(self, code: int) -> None:
        if self.agent is not None:
            self.agent.leave(code)
        os._exit(code)


def main() -> int:
    """Serve one start of a job; returns the exit code."""
    try:
        return _serve_arguments()
    except UserError as error:
        print(error, file=sys.stderr)
        return 1


def _serve_arguments() -> int:
    args = _parser().parse_args()
    token = (os.environ.pop(TOKEN_VARIABLE, None) or sys.stdin.readline().strip()).encode()
    for value in args.export:
        name, _, text = value.partition("=")
        os.environ[name] = text
    port = args.store_port or Entrance(args.gate, args.port, token=token, wait_seconds=args.wait).port
    job = Job(
        module=args.module,
        arguments=tuple(args.arguments),
        nodes=parse_hostfile(args.nodes.replace(",", "\n").replace("=", " slots=")),
        log_folder=args.logs,
        cpu=args.cpu,
        port=args.port,
    )
    return serve(job, args.node_rank, token=token, store_port=port, wait_seconds=args.wait)


def serve(job: Job, node_rank: int, *, token: bytes, store_port: int, wait_seconds: float) -> int:
    """Run this node's ranks until the launcher ends the job."""

    def connect() -> dist.TCPStore:
        timeout = timedelta(seconds=wait_seconds)
        return dist.TCPStore(LOOPBACK, store_port, is_master=False, wait_for_workers=False, timeout=timeout)

    board = Board(connect(), token)
    if board.count(f"claim/{node_rank}") > 1:
        raise UserError(f"{job.name_of(node_rank)} is in the job already. Is the command running twice?")
    link = Link(Board(connect(), token), node_rank)
    link.start()
    board.put(f"hello/{node_rank}", {"versions": versions()})
    while (begin := board.get("begin")) is None:
        time.sleep(BEAT_SECONDS)
    try:
        agent = link.agent = _agent(job, node_rank, board, connect(), token, begin, store_port, wait_seconds)
        with contextlib.suppress(SignalException):
            agent.run()
        statuses = agent.statuses()
        if len(statuses) == job.nodes[node_rank].num_ranks and all(s.state in ("done", "stopped") for s in statuses):
            ended = {"outcome": statuses[0].state}
        else:
            ended = {"outcome": "failed", **node_failure(statuses, {}, logs=job.log_folder).report}
    except (UserError, OSError) as error:
        ended = {"outcome": "failed", **JobFailedError(str(error), kind="refused").report}
    except Exception as error:  # of PyTorch's agent
        text = f"{job.name_of(node_rank)}: {type(error).__name__}: {error}"
        ended = {"outcome": "failed", **JobFailedError(text, kind="launcher", time=time.time()).report}
    attempt = link.agent.num_restarts if link.agent else 0
    with contextlib.suppress(RuntimeError):  # the launcher is lost
        board.put(f"ended/{node_rank}", {**ended, "attempt": attempt})
    link.join()  # it ends the process
    return 1


def _agent(
    job: Job,
    node_rank: int,
    board: Board,
    store: dist.TCPStore,
    token: bytes,
    begin: Message,
    store_port: int,
    wait_seconds: float,
) -> NodeAgent:
    """The agent of this node, and the environment of its ranks."""
    num_ranks = job.nodes[node_rank].num_ranks
    os.environ |= rank_environment(
        os.environ,
        num_ranks=num_ranks,
        num_cores=len(os.sched_getaffinity(0)),
        interface=None if job.is_local else interface_towards(machine(job.nodes[0].host)),
    )
    # gloo aborts a rank that has no file descriptor left for one more connection of a stranger.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    devices = () if job.cpu else given_devices(num_ranks)
    if devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = ",".join(signum.name for signum in STOP_SIGNALS)
    handler = rendezvous(
        store,
        board,
        token,
        run_id=begin["run_id"],
        node_rank=node_rank,
        num_nodes=len(job.nodes),
        port=store_port,
        wait_seconds=wait_seconds,
    )
    spec = WorkerSpec(
        role="rank",
        local_world_size=num_ranks,
        entrypoint=sys.executable,
        args=("-u", "-m", job.module, *job.arguments),
        rdzv_handler=handler,
        max_restarts=int(begin["max_restarts"]),
        monitor_interval=0.1,
    )
    return NodeAgent(job, node_rank, board, spec)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gate", metavar="HOST", help="address of the job's gate")
    parser.add_argument("--port", type=int, default=0, help="port of the gate")
    parser.add_argument("--store-port", type=int, help="instead of a gate: port of the store on this machine")
    parser.add_argument("--node-rank", type=int, required=True)
    parser.add_argument("--nodes", required=True, help="host=ranks, comma-separated, in rank order")
    parser.add_argument("--logs", type=Path, required=True)
    parser.add_argument("--wait", type=float, default=300.0)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--export", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--module", required=True)
    parser.add_argument("arguments", nargs="*")
    return parser


if __name__ == "__main__":
    sys.exit(main())
