"""Block and order of segments."""

import numpy as np

from neuroimagen.data_shards.sources.recordings.blocks import blocks_and_order


def test_each_recording_is_a_block_of_its_subject() -> None:
    subject = np.array([1, 1, 1, 2, 2, 1])
    recording = np.array([0, 0, 1, 2, 2, 3])
    block, order = blocks_and_order(subject, recording, None)
    assert block.tolist() == [0, 0, 1, 0, 0, 2]
    assert order.tolist() == [0, 1, 0, 0, 1, 0]


def test_blocks_of_a_table_count_within_a_subject_in_the_order_of_time() -> None:
    subject = np.array([1] * 6 + [4] * 2)
    recording = np.array([0] * 4 + [1] * 2 + [2] * 2)
    inner = np.array([5, 5, 2, 5, 5, 5, 2, 2])  # block 5 is left and entered again: it stays one
    block, order = blocks_and_order(subject, recording, inner)
    assert block.tolist() == [0, 0, 1, 0, 2, 2, 0, 0]
    assert order.tolist() == [0, 1, 0, 2, 0, 1, 0, 1]
