"""One node of a job: python -m neuroimagen.launch.jobs.node …, started on every node by `neuroimagen launch`.

Starts this node's ranks when the coordinator says so, reports how they end, and ends them when the connection to the
coordinator is lost.
"""

import argparse
import contextlib
import os
import signal
import sys
import time
from pathlib import Path

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.launch.jobs.hosts import parse_hostfile
from neuroimagen.launch.jobs.local_ranks import JobFailedError, run_job
from neuroimagen.launch.jobs.logs import Line
from neuroimagen.launch.jobs.protocol import Connection, LostError, Message, connect, versions
from neuroimagen.launch.jobs.rank_command import Job, free_port, given_devices


class AbortedError(Exception):
    """The coordinator has asked this node to end its ranks, because another node failed."""


def main() -> int:
    """Serve one job; returns the exit code."""
    args = _parser().parse_args()
    if args.export:
        _export(args.export)
    nodes = parse_hostfile(args.nodes.replace(",", "\n").replace(":", " slots="))
    link = connect(args.coordinator, args.port, wait_seconds=args.wait)
    link.send({"type": "hello", "node": args.node_rank, "versions": versions(), "port": free_port()})

    def run(master_port: int) -> Message:
        job = Job(
            module=args.module,
            arguments=tuple(args.arguments),
            num_ranks=nodes[args.node_rank].num_ranks,
            log_folder=args.logs,
            master_port=master_port,
            nodes=nodes,
            node_rank=args.node_rank,
            master_address=args.master_address,
            launcher=args.launcher,
            devices=() if args.cpu else given_devices(nodes[args.node_rank].num_ranks),
        )
        return run_attempt(job, link)

    try:
        while True:
            for message in link.receive():
                if message["type"] == "start":
                    link.send({**run(message["port"]), "type": "ended", "port": free_port()})
                elif message["type"] == "finish":
                    return int(message["code"])
            time.sleep(0.1)
    except LostError as error:
        print(
            f"node {args.node_rank}: the connection to the coordinator is lost: {error}. This node's ranks were ended.",
            file=sys.stderr,
        )
        return 1


def run_attempt(job: Job, link: Connection) -> Message:
    """Run this node's ranks once; returns how they ended.

    Raises LostError, after the ranks were ended, if the connection to the coordinator is lost.
    """

    def watch() -> None:
        for message in link.receive():
            if message["type"] == "stop":
                signal.raise_signal(signal.SIGTERM)  # run_job's signal handler passes it on to the ranks
            elif message["type"] == "abort":
                raise AbortedError

    def take_lines(lines: list[Line]) -> None:
        if lines:
            with contextlib.suppress(LostError):  # watch() raises it
                link.send({"type": "log", "lines": lines})

    try:
        stopped = run_job(job, watch=watch, take_lines=take_lines)
    except AbortedError:
        return {"outcome": "aborted"}
    except JobFailedError as error:
        return {"outcome": "failed", "kind": error.kind, "message": str(error), "time": error.time}
    except (UserError, OSError) as error:
        return {"outcome": "failed", "kind": "refused", "message": str(error), "time": time.time()}
    return {"outcome": "done" if stopped is None else "stopped"}


def _export(values: list[str]) -> None:
    for value in values:
        name, _, text = value.partition("=")
        os.environ[name] = text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--coordinator", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--node-rank", type=int, required=True)
    parser.add_argument("--nodes", required=True, help="host:ranks, comma-separated, in rank order")
    parser.add_argument("--master-address", required=True)
    parser.add_argument("--launcher", choices=("deepspeed", "torchrun"), default="deepspeed")
    parser.add_argument("--logs", type=Path, required=True)
    parser.add_argument("--wait", type=float, default=300.0)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--export", action="append", metavar="NAME=VALUE")
    parser.add_argument("--module", required=True)
    parser.add_argument("arguments", nargs="*")
    return parser


if __name__ == "__main__":
    sys.exit(main())
