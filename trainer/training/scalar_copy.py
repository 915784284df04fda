"""A number that a GPU has yet to compute, on its way to the CPU while more work is queued behind it."""

import torch
from torch import Tensor


class HostNumber:
    """The value of a 0-dim tensor, copied off its device from where the queue stands now.

    `tensor.item()` waits until everything queued before it is done, and leaves the GPU idle until the next launch.
    `value()` waits for the copy alone: work that is queued between the two runs on.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._copied: torch.cuda.Event | None = None
        # Into page-locked memory, which PyTorch takes by itself for a copy that nobody waits for.
        self._number = tensor.detach().to("cpu", non_blocking=True)
        if tensor.device.type == "cuda":
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(tensor.device))

    def value(self) -> float:
        """The number, once it is there."""
        if self._copied is not None:
            self._copied.synchronize()
        return float(self._number)
