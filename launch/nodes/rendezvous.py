"""PyTorch's rendezvous, over a store that only the nodes of a job can write: fixed nodes, in the hostfile's order."""

import hmac
import os
import time
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousStateError,
    RendezvousStoreInfo,
)
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import C10dRendezvousBackend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import DynamicRendezvousHandler, RendezvousTimeout

from neuroimagen.launch.nodes.board import Board
from neuroimagen.launch.nodes.gate import signature
from neuroimagen.launch.nodes.job import LOOPBACK

KEEP_ALIVE_SECONDS = 5
KEEP_ALIVE_ATTEMPTS = 60
"""PyTorch compares the clocks of nodes to tell whether one is alive, and clocks may differ by minutes. The launcher
notices a lost node by its heartbeat, within seconds."""


class SignedBackend(C10dRendezvousBackend):
    """The rendezvous' state in a store, signed: PyTorch unpickles it, which runs the code of whoever wrote it."""

    def __init__(self, store: dist.Store, run_id: str, token: bytes) -> None:
        self._token = token
        super().__init__(store, run_id)

    def get_state(self) -> tuple[bytes, Any] | None:
        return self._checked(super().get_state())

    def set_state(self, state: bytes, token: Any = None) -> tuple[bytes, Any, bool] | None:
        return self._checked(super().set_state(signature(self._token, b"rendezvous", state) + state, token))

    def _checked(self, found: Any) -> Any:
        if found is None:
            return None
        signed, *rest = found
        proof, state = signed[:32], signed[32:]
        if not hmac.compare_digest(proof, signature(self._token, b"rendezvous", state)):
            raise RendezvousStateError("the state of the rendezvous was not written by a node of this job.")
        return state, *rest


class FixedNodes(RendezvousHandler):
    """A rendezvous whose ranks use the job's store too, at a port of their own machine's loopback."""

    def __init__(self, inner: RendezvousHandler, board: Board, port: int) -> None:
        self._inner, self._board, self._port = inner, board, port
        self._num_meetings = 0

    def next_rendezvous(self) -> RendezvousInfo:
        info = self._inner.next_rendezvous()
        if info.rank == 0 and self._num_meetings:
            # What the last start's ranks left would be read by this one's, which begin after this node has said so.
            # The launcher deletes it: TCPStore.list_keys holds Python's lock, which the way to the gate needs.
            self._board.put(f"restart/{self._num_meetings}", {})
            while self._board.get(f"clean/{self._num_meetings}") is None:
                time.sleep(0.05)
        self._num_meetings += 1
        return RendezvousInfo(info.store, info.rank, info.world_size, RendezvousStoreInfo(LOOPBACK, self._port))

    @property
    def use_agent_store(self) -> bool:
        return True

    def get_backend(self) -> str:
        return self._inner.get_backend()

    def is_closed(self) -> bool:
        return self._inner.is_closed()

    def set_closed(self) -> None:
        self._inner.set_closed()

    def num_nodes_waiting(self) -> int:
        return self._inner.num_nodes_waiting()

    def get_run_id(self) -> str:
        return self._inner.get_run_id()

    def shutdown(self) -> bool:
        return self._inner.shutdown()


def rendezvous(
    store: dist.TCPStore,
    board: Board,
    token: bytes,
    *,
    run_id: str,
    node_rank: int,
    num_nodes: int,
    port: int,
    wait_seconds: float,
) -> RendezvousHandler:
    """The meeting of a job's nodes, of which all must come, within `wait_seconds`."""
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # it would open another store, on every address
    handler = DynamicRendezvousHandler.from_backend(
        run_id,
        store,
        SignedBackend(store, run_id, token),
        min_nodes=num_nodes,
        max_nodes=num_nodes,
        local_addr=f"{node_rank:06d}",  # PyTorch sorts nodes by it
        timeout=RendezvousTimeout(join=timedelta(seconds=wait_seconds)),
        keep_alive_interval=KEEP_ALIVE_SECONDS,
        keep_alive_max_attempt=KEEP_ALIVE_ATTEMPTS,
    )
    return FixedNodes(handler, board, port)
