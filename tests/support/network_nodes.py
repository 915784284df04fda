"""Nodes on one machine: network namespaces with an address each on one bridge, and strangers among them."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

PREFIX = f"neuroimagen-{os.getpid()}-"


def ip(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=False)


class Nodes:
    """Namespaces with addresses 10.77.31.1 and so on, joined by a bridge of their own."""

    def __init__(self, number: int) -> None:
        self.names = [f"{PREFIX}{k}" for k in range(number)]
        self.addresses = [f"10.77.31.{k + 1}" for k in range(number)]

    def command(self, node: int, *words: str) -> list[str]:
        """What runs `words` on a node."""
        return ["ip", "netns", "exec", self.names[node], *words]

    def run(self, node: int, *words: str) -> str:
        return subprocess.run(self.command(node, *words), capture_output=True, text=True, check=False).stdout

    def cut_off(self, node: int) -> None:
        ip("-n", PREFIX + "bridge", "link", "set", f"ni-{node}", "down")

    def join(self, node: int) -> None:
        ip("-n", PREFIX + "bridge", "link", "set", f"ni-{node}", "up")

    def listening(self, node: int) -> list[tuple[str, int]]:
        """Address and port of every TCP socket that listens on a node."""
        lines = self.run(node, "ss", "-Hltn").splitlines()
        found = [line.split()[3].rpartition(":") for line in lines]
        return [(address.strip("[]"), int(port)) for address, _, port in found]


@contextmanager
def network_nodes(number: int) -> Iterator[Nodes]:
    """Make the namespaces; skips the test where this user may not."""
    if shutil.which("ip") is None or shutil.which("ss") is None:
        pytest.skip("iproute2 is not installed (apt-get install iproute2)")
    nodes = Nodes(number)
    bridge = PREFIX + "bridge"
    made = ip("netns", "add", bridge)
    if made.returncode != 0:
        pytest.skip(f"network namespaces are not permitted here: {made.stderr.strip()}")
    try:
        ip("-n", bridge, "link", "add", "br0", "type", "bridge")
        ip("-n", bridge, "link", "set", "br0", "up")
        for k, (name, address) in enumerate(zip(nodes.names, nodes.addresses, strict=True)):
            ip("netns", "add", name)
            ip("link", "add", "eth0", "netns", name, "type", "veth", "peer", "name", f"ni-{k}", "netns", bridge)
            ip("-n", bridge, "link", "set", f"ni-{k}", "master", "br0", "up")
            ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", "eth0", "up")
        yield nodes
    finally:
        for name in (*nodes.names, bridge):
            ip("netns", "delete", name)


NONSENSE = (
    b"",
    b"\0" * 4096,
    b"\xff" * 64,
    b"GET / HTTP/1.0\r\n\r\n",
    b'{"type": "hello", "node": 1, "versions": {}, "port": 1}\n{"type": "ended", "outcome": "done", "port": 1}\n',
    # TCPStore's own first message, and a request to set a key.
    b"\x0d" + (0x3C85F7CE).to_bytes(4, "little") + b"\0" * 4 + b"\x00" + (9).to_bytes(8, "little") + b"default/a",
    bytes(range(256)) * 4096,
)


def pester(address: str, ports: Sequence[int], *, rounds: int) -> int:
    """Connect to every port again and again, say nonsense or nothing, and keep up to 500 connections open.

    Returns how many connections were accepted.
    """
    kept: list[socket.socket] = []
    num_accepted = 0
    for turn in range(rounds):
        for port in ports:
            try:
                stranger = socket.create_connection((address, port), timeout=1.0)
                num_accepted += 1
                stranger.settimeout(0.2)
                kept.append(stranger)
                stranger.sendall(NONSENSE[turn % len(NONSENSE)])
            except OSError:
                continue
        for old in kept[:-500]:
            old.close()
        del kept[:-500]
    return num_accepted


if __name__ == "__main__":  # a stranger on another node: ADDRESS ROUNDS PORT…
    print(pester(sys.argv[1], [int(port) for port in sys.argv[3:]], rounds=int(sys.argv[2])))
