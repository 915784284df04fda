"""Memory that batches are decoded into, used again when no batch refers to it any more."""

import sys

import numpy as np
import torch


class BatchBuffers:
    """Memory of batches [B, C, T] that is used again when nothing refers to it any more.

    A fresh 29 MB batch costs about 5 ms of page faults, more than decoding it. A tensor made with torch.from_numpy
    keeps a reference to its array as long as any tensor shares the storage, so the array's reference count shows
    whether the consumer still holds the batch, and a batch that is held is never overwritten.
    """

    def __init__(self, capacity: int, dtype: torch.dtype, pin_memory: bool) -> None:
        """`capacity`: number of arrays kept at most. `pin_memory`: page-locked memory, for fast copies to a GPU."""
        self._dtype = dtype
        self._numpy_dtype = torch.empty(0, dtype=dtype).numpy().dtype
        self._capacity = capacity
        self._pin_memory = pin_memory
        self._arrays: list[np.ndarray] = []

    def take(self, shape: tuple[int, int, int]) -> torch.Tensor:
        """An uninitialised tensor of this shape. Call it from one thread at a time."""
        if self._pin_memory:
            # PyTorch's own allocator recycles pinned memory, and waits for copies that have not ended.
            return torch.empty(shape, dtype=self._dtype, pin_memory=True)
        for array in self._arrays:
            # Three references are the list's, the loop's and that of getrefcount's argument.
            if array.shape[0] >= shape[0] and sys.getrefcount(array) == 3:
                return torch.from_numpy(array[: shape[0]])
        fresh = np.empty(shape, dtype=self._numpy_dtype)
        if len(self._arrays) < self._capacity:
            self._arrays.append(fresh)
        return torch.from_numpy(fresh)
