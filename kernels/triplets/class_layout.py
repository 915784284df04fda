"""What all backends of the semi-hard miner share: rows sorted by class, and rows centred and scaled.

Legend: M anchors, N candidates, D features, K positives of one anchor, T triplets.

Candidates are sorted by label (stable: equal labels keep their order), so that a class is one contiguous range of
*columns*. "Lowest index" in the definition of the miner means the lowest column.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


SMALL_LIMIT = 16
"""Positives per anchor up to which a limit is not compared with the classes that there are."""


@dataclass(frozen=True, kw_only=True)
class ClassLayout:
    """Anchors and candidates in class-sorted order. All tensors int64, on the device of the embeddings."""

    candidate_order: Tensor
    """[N] column → row of the candidates."""
    anchor_order: Tensor
    """[M] sorted anchor → row of the anchors."""
    start: Tensor
    """[M] first column of the sorted anchor's class."""
    end: Tensor
    """[M] one past the last column of the sorted anchor's class."""
    own_column: Tensor
    """[M] column that is the sorted anchor itself, −1 when the anchor is no candidate."""

    @property
    def num_candidates(self) -> int:
        return self.candidate_order.shape[0]

    def num_positives(self, limit: int | None = None) -> Tensor:
        """[M] positives that each sorted anchor has (at most `limit`); 0 where it has no negative at all."""
        class_size = self.end - self.start
        count = class_size - (self.own_column >= 0).long()
        count = count.masked_fill(class_size == self.num_candidates, 0)
        return count if limit is None else count.clamp_max(limit)


def class_layout(labels: Tensor, candidate_labels: Tensor, anchor_offset: int | None) -> ClassLayout:
    """Sort by class. Anchor i is row `anchor_offset` + i of the candidates; None: the anchors are not among them."""
    candidate_order = torch.argsort(candidate_labels, stable=True)
    if anchor_offset == 0 and labels is candidate_labels:
        anchor_order = candidate_order
        own_column = torch.arange(labels.shape[0], device=labels.device)
    else:
        anchor_order = torch.argsort(labels, stable=True)
        if anchor_offset is None:
            own_column = torch.full_like(anchor_order, -1)
        else:
            column_of_row = torch.empty_like(candidate_order)
            column_of_row[candidate_order] = torch.arange(candidate_order.shape[0], device=labels.device)
            own_column = column_of_row[anchor_order + anchor_offset]
    sorted_labels = labels[anchor_order]
    columns = candidate_labels[candidate_order]
    return ClassLayout(
        candidate_order=candidate_order,
        anchor_order=anchor_order,
        start=torch.searchsorted(columns, sorted_labels),
        end=torch.searchsorted(columns, sorted_labels, right=True),
        own_column=own_column,
    )


class PositiveSampler:
    """Columns of the positives of any sorted anchors: all of them, or `limit` drawn without replacement.

    The draw uses `generator`, or that of the layout's device. It shuffles every class once and takes the `limit` columns that follow the anchor cyclically: each positive is
    equally likely, so the mean over the drawn pairs is an unbiased estimate of the mean over all pairs of the anchor.
    """

    def __init__(self, layout: ClassLayout, limit: int | None, generator: torch.Generator | None = None) -> None:
        self.layout = layout
        self.count = layout.num_positives(limit)
        self._limit = limit
        self._most = limit if limit is not None and limit <= SMALL_LIMIT else None
        if limit is None:
            return
        device = layout.start.device
        draw_device = device if generator is None else generator.device
        shuffle = torch.randperm(layout.num_candidates, generator=generator, device=draw_device).to(device)
        # Stable sort of shuffled columns by class: each class keeps its range and is shuffled within it.
        class_of_column = torch.zeros(layout.num_candidates + 1, dtype=torch.int64, device=device)
        class_of_column[layout.start] = 1
        class_of_column[layout.end] = 1
        class_of_column = class_of_column.cumsum(0)[:-1]
        self._shuffled = shuffle[torch.argsort(class_of_column[shuffle], stable=True)]
        place = torch.empty_like(self._shuffled)
        place[self._shuffled] = torch.arange(layout.num_candidates, device=device)
        start = layout.start
        draw = torch.rand(start.shape[0], generator=generator, device=draw_device).to(device)
        alone = start + (draw * (layout.end - start)).long()
        self._place = torch.where(layout.own_column >= 0, place[layout.own_column.clamp_min(0)] + 1, alone)

    def most(self) -> int:
        """No anchor has more positives than this: the largest number, or the limit if that is small.

        The number is on the device. Fetching it waits for all that is queued there, so it is fetched once, and not for
        a few slots that are empty.
        """
        if self._most is None:
            self._most = int(self.count.max())
        return self._most

    def columns(self, rows: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Positives of the sorted anchors `rows` [R]: columns, ascending, and which exist (bool), both [R, width].

        Places without a positive hold a valid column without a meaning.
        """
        layout = self.layout
        start, own = layout.start[rows, None], layout.own_column[rows, None]
        slot = torch.arange(width, device=rows.device)[None]
        exists = slot < self.count[rows, None]
        if self._limit is not None:
            size = (layout.end[rows, None] - start).clamp_min(1)
            place = start + (self._place[rows, None] - start + slot) % size
            column = self._shuffled[place.clamp_max(layout.num_candidates - 1)]
            column = column.masked_fill(~exists, layout.num_candidates).sort(1).values
        else:
            column = start + slot
            column = column + ((own >= 0) & (column >= own)).long()
        return column.clamp_max(layout.num_candidates - 1), exists


@dataclass(frozen=True, kw_only=True)
class LossSum:
    """Sum of the hinges, numbers of pairs and of pairs above zero, and the gradient of the sum."""

    total: Tensor
    """0-dim float64."""
    num_pairs: Tensor
    num_active: Tensor
    """0-dim int64."""
    anchor_gradient: Tensor
    """[M, D]"""
    candidate_gradient: Tensor
    """[N, D]"""


def frame(embeddings: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """The frame that mining works in, (centre [D], unit 0-dim): rows (x − centre) / unit have norms below 1.

    Distances do not change when one vector is subtracted from all rows, but rounding errors scale with |x|²: removing
    the mean is what keeps half precision exact enough when the embeddings are bunched. `unit` is a power of two and the
    centre lies on a grid of unit / 128, so rows that are short binary fractions stay so: equal distances remain equal.
    """
    # Reductions on the device, no host round trip. The bound is taken again after the centre moved to the grid.
    centre = candidates.mean(0, dtype=torch.promote_types(candidates.dtype, torch.float32))
    unit = power_of_two_above(_largest_norm(embeddings, candidates, centre))
    centre = (centre / unit * 128).round() / 128 * unit
    return centre, power_of_two_above(_largest_norm(embeddings, candidates, centre))


def centred(embeddings: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(embeddings, candidates, unit) with both sets of rows in the frame of `frame`."""
    centre, unit = frame(embeddings, candidates)
    anchors = (embeddings - centre) / unit
    return anchors, anchors if candidates is embeddings else (candidates - centre) / unit, unit


def _largest_norm(embeddings: Tensor, candidates: Tensor, centre: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(candidates - centre, dim=1).amax()
    if candidates is embeddings:
        return norm
    return torch.maximum(norm, torch.linalg.vector_norm(embeddings - centre, dim=1).amax())


def power_of_two_above(value: Tensor) -> Tensor:
    """0-dim: a power of two that exceeds `value` by at least 1 % (so that rounding cannot push a row out), 1 for 0."""
    exponent = torch.frexp(value * 1.01).exponent.clamp(-120, 127)
    # From its bits: ldexp multiplies by pow(2, exponent), which need not be exact on a GPU, and ties between equal
    # distances rest on a scale that is.
    if value.dtype == torch.float64:
        return ((exponent.long() + 1023) << 52).view(torch.float64)
    return ((exponent + 127) << 23).view(torch.float32)
