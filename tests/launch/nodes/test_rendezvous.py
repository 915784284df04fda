"""PyTorch's rendezvous over a store: nodes in the hostfile's order, and no pickle of a stranger is read."""

import base64
import pickle
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from torch.distributed.elastic.rendezvous import RendezvousError, RendezvousInfo

from neuroimagen.launch.nodes.board import Board
from neuroimagen.launch.nodes.rendezvous import rendezvous

TOKEN = b"the token of this test"


@pytest.fixture
def port() -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    store = dist.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())
    yield port
    del store


def meet(port: int, node_rank: int, *, num_nodes: int, wait_seconds: float = 30) -> RendezvousInfo:
    store = dist.TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False)
    return rendezvous(
        store,
        Board(store, TOKEN),
        TOKEN,
        run_id="run",
        node_rank=node_rank,
        num_nodes=num_nodes,
        port=port,
        wait_seconds=wait_seconds,
    ).next_rendezvous()


def test_nodes_have_the_hostfile_s_order_and_the_store_of_their_own_loopback(port: int) -> None:
    found: dict[int, RendezvousInfo] = {}
    numbers = (11, 2, 0)
    threads = [
        threading.Thread(target=lambda k=k: found.update({k: meet(port, k, num_nodes=3)}), daemon=True) for k in numbers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [found[k].rank for k in sorted(numbers)] == [0, 1, 2]
    info = found[0].bootstrap_store_info
    assert info is not None
    assert (found[0].world_size, info.master_addr, info.master_port) == (3, "127.0.0.1", port)


class RunsCode:
    """A pickle that makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


def test_a_stranger_s_pickle_is_refused_unread(port: int, tmp_path: Path) -> None:
    """PyTorch's own rendezvous runs its code: a process of this machine can write to the store."""
    stranger = dist.TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False)
    content = pickle.dumps(RunsCode(tmp_path / "ran"))
    stranger.set("torch.rendezvous.run", base64.b64encode(content).decode())
    with pytest.raises(RendezvousError, match="not written by a node of this job"):
        meet(port, 0, num_nodes=1)
    assert not (tmp_path / "ran").exists()


def test_a_node_that_does_not_come_ends_the_wait(port: int) -> None:
    with pytest.raises(RendezvousError):
        meet(port, 0, num_nodes=2, wait_seconds=1)
