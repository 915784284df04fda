"""Buffers of batches: reused when nothing refers to them, never while something does."""

import torch

from neuroimagen.data_shards.loading.batch_buffers import BatchBuffers


def test_a_buffer_is_reused_when_its_batch_is_dropped() -> None:
    buffers = BatchBuffers(2, torch.float32, pin_memory=False)
    first = buffers.take((4, 3, 5))
    address = first.data_ptr()
    del first
    assert buffers.take((4, 3, 5)).data_ptr() == address
    smaller = buffers.take((2, 3, 5))
    assert (smaller.data_ptr(), smaller.shape) == (address, (2, 3, 5))


def test_a_batch_that_is_held_is_never_given_again() -> None:
    buffers = BatchBuffers(2, torch.float16, pin_memory=False)
    held = [buffers.take((4, 3, 5)) for _ in range(5)]  # more than are kept
    assert len({batch.data_ptr() for batch in held}) == 5
    assert held[0].dtype == torch.float16
    view = held[0][1:, :1]
    address = held[0].data_ptr()
    del held
    others = [buffers.take((4, 3, 5)) for _ in range(3)]
    assert address not in {batch.data_ptr() for batch in others}  # a view holds it
    del view, others
    assert buffers.take((4, 3, 5)).data_ptr() == address
