"""Which nodes a job runs on: a hostfile in DeepSpeed's format, or a SLURM allocation."""

import codecs
import re
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from neuroimagen.data_shards.common.errors import UsageError, UserError
from neuroimagen.data_shards.common.limits import MAX_JSON_BYTES
from neuroimagen.data_shards.common.reading import read_bytes, reason

_LINE = re.compile(r"(\S+)\s+slots=([0-9]+)")
_HOST = re.compile(r"(?:[A-Za-z0-9_][\w.-]*@)?[A-Za-z0-9_:][\w.:%-]*", re.ASCII)
"""A name or an IP address, with a user before it or without. What ssh would read as an option, and what pdsh would
expand to several hosts, is none."""
MAX_SLOTS = 1024
"""Ranks of one machine, at most: no machine has as many accelerators, and a larger number is a typing error."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """One machine (or container) of a job."""

    host: str
    """Its name or address, as the others reach it."""
    num_ranks: int


def read_hostfile(path: Path) -> tuple[Node, ...]:
    """The nodes of a hostfile: one line `name slots=N` per node, comments after `#`. Raises UserError with the line.

    The file is UTF-8, with a byte-order mark or without.
    """
    try:
        content = read_bytes(path, limit=MAX_JSON_BYTES)
    except OSError as error:
        # DeepSpeed's own runner would train on this machine alone, without an error.
        raise UserError(f"cannot read the hostfile {path}: {reason(error)}.") from None
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in content:
        raise UserError(f"the hostfile {path} is UTF-16 or not text. Save it as UTF-8.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line}: byte {content[error.start]:#04x} is not UTF-8. Save it as UTF-8."
        ) from None
    return parse_hostfile(text, where=str(path))


def parse_hostfile(text: str, *, where: str = "hostfile") -> tuple[Node, ...]:
    """The nodes of a hostfile's text. `where` names it in a message."""
    nodes: list[Node] = []
    for number, line in enumerate(text.splitlines(), start=1):
        content = line.partition("#")[0].strip()
        if not content:
            continue
        match = _LINE.fullmatch(content)
        if match is None or not match[2].strip("0"):
            raise UserError(f"{where}, line {number}: {content!r} is not `name slots=N` with N at least 1.")
        host, slots = match[1], match[2].lstrip("0")
        if not _HOST.fullmatch(host):
            raise UserError(
                f"{where}, line {number}: {host!r} is not a host. Write one host per line: a name of ASCII letters, "
                "digits, dots and hyphens, or an IP address, which begins with a letter or a digit."
            )
        if len(slots) > len(str(MAX_SLOTS)) or int(slots) > MAX_SLOTS:
            raise UserError(f"{where}, line {number}: {host} has {slots} slots; at most {MAX_SLOTS} are possible.")
        same = next((node.host for node in nodes if machine(node.host) == machine(host)), None)
        if same is not None:
            earlier = "" if same == host else f", before as {same}"
            raise UserError(
                f"{where}, line {number}: {host} is listed twice{earlier}. Give it one line with all its slots."
            )
        nodes.append(Node(host=host, num_ranks=int(slots)))
    if not nodes:
        raise UserError(f"{where} lists no node. Write one line `name slots=N` per node.")
    return tuple(nodes)


def machine(host: str) -> str:
    """What tells hosts apart: names differ neither by the case of letters nor by the user who logs in."""
    return host.rpartition("@")[2].lower()


def select_nodes(nodes: Sequence[Node], *, include: Sequence[str], exclude: Sequence[str]) -> tuple[Node, ...]:
    """The nodes to use, in the hostfile's order. Raises UsageError for a name that is not there."""
    known = {machine(node.host) for node in nodes}
    unknown = [name for name in (*include, *exclude) if machine(name) not in known]
    if unknown:
        listed = ", ".join(sorted(node.host for node in nodes))
        raise UsageError(f"{', '.join(unknown)} is not in the hostfile; it has {listed}.")
    wanted, left_out = {machine(name) for name in include}, {machine(name) for name in exclude}
    chosen = tuple(
        node for node in nodes if (not wanted or machine(node.host) in wanted) and machine(node.host) not in left_out
    )
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


def address_towards(host: str) -> str:
    """This machine's address on the way to a host, IPv4 or IPv6. Raises OSError where there is no way."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)  # sends nothing, but chooses the route
        return str(probe.getsockname()[0])


def interface_towards(address: str) -> str | None:
    """The network interface through which packets to `address` leave; None where none is found."""
    import psutil

    try:
        own = address_towards(address)
    except OSError:
        return None
    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address.partition("%")[0] == own.partition("%")[0] for entry in addresses):
            return str(name)
    return None
