"""When within a session a segment was recorded, as the index keeps it: block of the subject, position in the block."""

import numpy as np


def blocks_and_order(
    subject: np.ndarray, recording: np.ndarray, block: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Block and order of each segment, int64 [segments]; segments of a recording are given in the order of time.

    subject, recording: integers; each recording is of one subject. block: number, from 0, of what a table calls block,
    or None: each recording is one block.

    Blocks count from 0 within a subject, in the order in which they begin; a block never spans two recordings.
    """
    code = recording if block is None else recording * (int(block.max(initial=0)) + 1) + block
    _, first, own = np.unique(code, return_index=True, return_inverse=True)
    count: dict[int, int] = {}
    number = np.empty(len(first), dtype=np.int64)
    for group in np.argsort(first, kind="stable").tolist():
        person = int(subject[first[group]])
        number[group] = count.get(person, 0)
        count[person] = int(number[group]) + 1
    by_group = np.argsort(own, kind="stable")
    sizes = np.bincount(own, minlength=len(first))
    order = np.empty(len(own), dtype=np.int64)
    order[by_group] = np.arange(len(own)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return number[own], order
