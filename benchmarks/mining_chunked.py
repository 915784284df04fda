"""Semi-hard mining in plain PyTorch for batches whose N × N distances do not fit: rows in chunks, checkpointed.

The loss is TensorFlow Addons' (squared L2, nearest negative strictly farther, else the farthest), by sort and search
for all positives, and by a masked minimum for each of K random ones. Indices and gradients are PyTorch's own.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = {"cpu": 1 << 21, "cuda": 1 << 26}
"""Entries of a chunk's distances; about 40 bytes per entry are allocated at a time."""

ChunkFunction = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""(anchors [R, D], their labels [R], their rows [R], all rows [N, D], all labels [N]) → [hinges' sum, pairs]."""


class ChunkedLoss:
    """embeddings [N, D], labels [N] → loss. With `compiled` the chunk's function is compiled, the loop is not."""

    def __init__(self, positives: str | int, *, margin: float = 1.0, compiled: bool = False) -> None:
        self._margin = margin
        self._num_positives = None if positives == "all" else int(positives)
        self._chunk: ChunkFunction = torch.compile(self._plain_chunk, dynamic=False) if compiled else self._plain_chunk

    def __call__(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        num_rows = len(embeddings)
        size = max(1, min(num_rows, CHUNK_ELEMENTS[embeddings.device.type] // num_rows))
        index = torch.arange(num_rows, device=embeddings.device)
        total = embeddings.new_zeros(2)
        for rows in index.split(size):
            # Without the checkpoint every chunk's distances would be kept for the backward pass.
            total = total + checkpoint(
                self._chunk, embeddings[rows], labels[rows], rows, embeddings, labels, use_reentrant=False
            )
        return total[0] / total[1].clamp_min(1)

    def _plain_chunk(
        self, anchors: Tensor, anchor_labels: Tensor, rows: Tensor, every: Tensor, labels: Tensor
    ) -> Tensor:
        squared = anchors.square().sum(1)[:, None] + every.square().sum(1)[None] - 2 * anchors @ every.T
        squared = squared.clamp_min(0)  # [R, N]
        same = anchor_labels[:, None] == labels[None]
        pair = same & (rows[:, None] != torch.arange(len(every), device=every.device)[None])
        with torch.no_grad():
            if self._num_positives is None:
                negative = nearest_by_sort(squared, same)
            else:
                positive, pair = random_positives(pair, self._num_positives)
                negative = nearest_by_minimum(squared, same, squared.gather(1, positive))
        near = squared if self._num_positives is None else squared.gather(1, positive)
        hinge = (self._margin + near - squared.gather(1, negative)).clamp_min(0)
        return torch.stack([(hinge * pair).sum(), pair.sum().to(hinge.dtype)])


def nearest_by_sort(squared: Tensor, same: Tensor) -> Tensor:
    """For every entry of [R, N] the column of the nearest strictly farther negative, else of the farthest negative."""
    ordered, order = squared.masked_fill(same, torch.inf).sort(dim=1)
    last = (~same).sum(1, keepdim=True) - 1
    place = torch.searchsorted(ordered, squared.contiguous(), right=True)
    return order.gather(1, torch.minimum(place, last).clamp_min(0))


def random_positives(pair: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Columns [R, count] of random positives, and a mask of those that exist."""
    score = torch.rand(pair.shape, device=pair.device).masked_fill(~pair, -1.0)
    drawn = score.topk(min(count, pair.shape[1]), dim=1)
    return drawn.indices, drawn.values >= 0


def nearest_by_minimum(squared: Tensor, same: Tensor, thresholds: Tensor) -> Tensor:
    """The negatives' columns [R, K] for thresholds [R, K], by one masked minimum per threshold."""
    columns = []
    farthest = squared.masked_fill(same, -torch.inf).argmax(1)
    for threshold in thresholds.unbind(1):
        beyond = squared.masked_fill(same | (squared <= threshold[:, None]), torch.inf)
        nearest, column = beyond.min(1)
        columns.append(torch.where(nearest.isinf(), farthest, column))
    return torch.stack(columns, dim=1)
