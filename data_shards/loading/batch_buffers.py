"""Memory that batches are decoded into, used again once nobody holds the batch."""

import sys

import numpy as np
import torch


class BatchBuffers:
    """Memory of batches [B, C, T] that is used again once nothing refers to it any more.

    A fresh 29 MB batch costs about 5 ms of page faults, more than decoding it. A tensor made with torch.from_numpy
    keeps a reference to its array as long as any tensor shares the storage, so the array's reference count tells
    whether the consumer still holds the batch, and a batch that is kept is never overwritten.
    """

    def __init__(self, capacity: int, dtype: torch.dtype, pin_memory: bool) -> None:
        """`capacity`: arrays kept at most. `pin_memory`: page-locked, for fast copies to a GPU."""
        self._dtype = dtype
        self._numpy_dtype = torch.empty(0, dtype=dtype).numpy().dtype
        self._capacity = capacity
        self._pin_memory = pin_memory
        self._arrays: list[np.ndarray] = []

    def take(self, shape: tuple[int, int, int]) -> torch.Tensor:
        """An uninitialised tensor of this shape. To be called from one thread at a time."""
        if self._pin_memory:
            # PyTorch's own allocator recycles pinned memory, and knows about copies still in flight.
            return torch.empty(shape, dtype=self._dtype, pin_memory=True)
        for array in self._arrays:
            # Two references that are ours (the list, the loop) and the argument of getrefcount.
            if array.shape[0] >= shape[0] and sys.getrefcount(array) == 3:
                return torch.from_numpy(array[: shape[0]])
        fresh = np.empty(shape, dtype=self._numpy_dtype)
        if len(self._arrays) < self._capacity:
            self._arrays.append(fresh)
        return torch.from_numpy(fresh)
