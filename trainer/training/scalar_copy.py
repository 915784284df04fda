"""Copy a scalar from the GPU to the CPU without blocking the stream."""

import torch
from torch import Tensor


class ScalarCopy:
    """A copy of a 0-dim tensor on its way to the CPU, begun when this is made.

    `tensor.item()` waits for everything that is queued on the stream, and the GPU then idles until the next launch.
    `value()` waits for the copy alone: work that is queued between the two goes on.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._copied: torch.cuda.Event | None = None
        # Into page-locked memory, which PyTorch allocates by itself for a copy that does not block.
        self._copy = tensor.detach().to("cpu", non_blocking=True)
        if tensor.device.type == "cuda":
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(tensor.device))

    def value(self) -> float:
        """The tensor's value; waits until the copy has arrived."""
        if self._copied is not None:
            self._copied.synchronize()
        return float(self._copy)
