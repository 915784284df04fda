"""Which nodes a job runs on: a hostfile in DeepSpeed's format, or a SLURM allocation."""

import re
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from neuroimagen.data_shards.common.errors import UsageError, UserError

_LINE = re.compile(r"(\S+)\s+slots=(\d+)")


@dataclass(frozen=True, kw_only=True)
class Node:
    """One machine (or container) of a job."""

    host: str
    """Its name or address, as the others reach it."""
    num_ranks: int


def read_hostfile(path: Path) -> tuple[Node, ...]:
    """The nodes of a hostfile: one line `name slots=N` per node, comments after `#`. Raises UserError with the line."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        # DeepSpeed's own runner would train on this machine alone, without an error.
        raise UserError(f"cannot read the hostfile {path}: {error.strerror or error}.") from None
    return parse_hostfile(text, where=str(path))


def parse_hostfile(text: str, *, where: str = "hostfile") -> tuple[Node, ...]:
    """The nodes of a hostfile's text. `where` names it in a message."""
    nodes: list[Node] = []
    for number, line in enumerate(text.splitlines(), start=1):
        content = line.partition("#")[0].strip()
        if not content:
            continue
        match = _LINE.fullmatch(content)
        if match is None or int(match[2]) < 1:
            raise UserError(f"{where}, line {number}: {content!r} is not `name slots=N` with N at least 1.")
        if any(node.host == match[1] for node in nodes):
            raise UserError(f"{where}, line {number}: {match[1]} is listed twice. Give it one line with all its slots.")
        nodes.append(Node(host=match[1], num_ranks=int(match[2])))
    if not nodes:
        raise UserError(f"{where} lists no node. Write one line `name slots=N` per node.")
    return tuple(nodes)


def select_nodes(nodes: Sequence[Node], *, include: Sequence[str], exclude: Sequence[str]) -> tuple[Node, ...]:
    """The nodes to use, in the hostfile's order. Raises UsageError for a name that is not there."""
    known = {node.host for node in nodes}
    unknown = [name for name in (*include, *exclude) if name not in known]
    if unknown:
        raise UsageError(f"{', '.join(unknown)} is not in the hostfile; it has {', '.join(sorted(known))}.")
    chosen = tuple(n for n in nodes if (not include or n.host in include) and n.host not in exclude)
    if not chosen:
        raise UsageError("--include and --exclude leave no node.")
    return chosen


def slurm_nodes(environment: Mapping[str, str], *, num_ranks: int | None) -> tuple[Node, ...]:
    """The nodes of the SLURM allocation that this process runs in, with `num_ranks` ranks per node or one per GPU."""
    names = environment.get("SLURM_JOB_NODELIST")
    if names is None:
        raise UsageError("--allocation works inside a SLURM job only, but SLURM_JOB_NODELIST is not set.")
    listed = subprocess.run(["scontrol", "show", "hostnames", names], capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        raise UserError(f"`scontrol show hostnames {names}` failed: {listed.stderr.strip()}")
    gpus = environment.get("SLURM_GPUS_ON_NODE", "")
    per_node = num_ranks or (int(gpus) if gpus.isdigit() else 0)
    if per_node < 1:
        raise UsageError(
            "the number of ranks per node is not known. Give --num-ranks, or ask SLURM for GPUs (--gpus-per-node)."
        )
    return tuple(Node(host=host, num_ranks=per_node) for host in listed.stdout.split())


def interface_towards(address: str) -> str | None:
    """The network interface through which packets to `address` leave; None where none is found."""
    import psutil

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))  # sends nothing, but chooses the route
        except OSError:
            return None
        own = probe.getsockname()[0]
    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address == own for entry in addresses):
            return str(name)
    return None
