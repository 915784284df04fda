"""PyTorch's rendezvous, over a store that only the nodes of a job can write: fixed nodes, in the hostfile's order."""

import hmac
import os
import time
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed.elastic.rendezvous import RendezvousInfo, RendezvousStateError, RendezvousStoreInfo
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import C10dRendezvousBackend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import DynamicRendezvousHandler, RendezvousTimeout

from neuroimagen.launch.nodes.board import Board
from neuroimagen.launch.nodes.gate import signature
from neuroimagen.launch.nodes.job import LOOPBACK

KEEP_ALIVE_ATTEMPTS = 60
"""Of five seconds each. PyTorch compares the clocks of nodes to tell whether one is alive, and clocks may differ by
minutes. The launcher notices a lost node by its heartbeat, within seconds."""


class SignedBackend(C10dRendezvousBackend):
    """The rendezvous' state in a store, signed: PyTorch unpickles it, which runs the code of whoever wrote it."""

    def __init__(self, store: dist.Store, run_id: str, token: bytes) -> None:
        self._token = token
        super().__init__(store, run_id)

    def get_state(self) -> tuple[bytes, Any] | None:
        return self._checked(super().get_state())

    def set_state(self, state: bytes, token: Any = None) -> tuple[bytes, Any, bool] | None:
        return self._checked(super().set_state(self._signature(state) + state, token))

    def _checked(self, found: Any) -> Any:
        if found is None:
            return None
        signed, *rest = found
        if not hmac.compare_digest(signed[:32], self._signature(signed[32:])):
            raise RendezvousStateError("the state of the rendezvous was not written by a node of this job.")
        return signed[32:], *rest

    def _signature(self, state: bytes) -> bytes:
        return signature(self._token, b"rendezvous", state)


class JobRendezvous(DynamicRendezvousHandler):
    """A rendezvous whose ranks use the job's store too, at a port of their own machine's loopback."""

    board: Board
    port: int
    num_meetings = 0
    use_agent_store = True  # type: ignore[assignment]  # a property of the parent

    def next_rendezvous(self) -> RendezvousInfo:
        info = super().next_rendezvous()
        if info.rank == 0 and self.num_meetings:
            # What the last start's ranks left would be read by this one's, which begin after this node has said so.
            # The launcher deletes it: TCPStore.list_keys holds Python's lock, which the way to the gate needs.
            self.board.put(f"restart/{self.num_meetings}", {})
            while self.board.get(f"clean/{self.num_meetings}") is None:
                time.sleep(0.05)
        self.num_meetings += 1
        return RendezvousInfo(info.store, info.rank, info.world_size, RendezvousStoreInfo(LOOPBACK, self.port))


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
) -> JobRendezvous:
    """The meeting of a job's nodes, of which all must come, within `wait_seconds`."""
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # it would open another store, on every address
    handler: JobRendezvous = JobRendezvous.from_backend(
        run_id,
        store,
        SignedBackend(store, run_id, token),
        min_nodes=num_nodes,
        max_nodes=num_nodes,
        local_addr=f"{node_rank:06d}",  # PyTorch sorts nodes by it
        timeout=RendezvousTimeout(join=timedelta(seconds=wait_seconds)),
        keep_alive_max_attempt=KEEP_ALIVE_ATTEMPTS,
    )
    handler.board, handler.port = board, port
    return handler
