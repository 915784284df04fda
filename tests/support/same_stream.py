"""A data set far away gives the batches of the folder it was copied from."""

import numpy as np
import torch

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.loading.plan import BlockShufflePlan, ShufflePlan
from neuroimagen.data_shards.loading.reader import Reader


def assert_streams_alike(remote: Dataset, local: Dataset) -> None:
    """Rows, EEG, pictures and labels of an epoch of both shuffles, bit for bit."""
    assert remote.digest == local.digest
    rows = np.arange(len(local))
    for plan in (
        ShufflePlan(rows, 0, 16),
        BlockShufflePlan(rows, local.index.shard, 3, 16, window_shards=1),
    ):
        far, near = (Reader(source, plan, image_size_px=8).epoch(1) for source in (remote, local))
        for theirs, ours in zip(far, near, strict=True):
            assert torch.equal(theirs.rows, ours.rows)
            assert torch.equal(theirs.eeg, ours.eeg)
            assert torch.equal(theirs.images, ours.images)
            assert torch.equal(theirs.label, ours.label)
