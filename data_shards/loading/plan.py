"""The order of an epoch as a pure function: which rows are global batch `step` of `epoch`.

A plan reads no byte of the data, and the cost of a step depends on the batch size only. So a run resumes from the
number of a step, and the sequence of global batches is the same for any number of ranks: ranks take slices of it
(`rank_slice`).
"""

from typing import Protocol

import numpy as np

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.permutation import derive_key, permute

_SHARDS = 0x5A
"""Distinguishes the key of the shards' order from those of the windows."""


class Plan(Protocol):
    """What the reader needs from a plan."""

    global_batch_size: int

    @property
    def steps_per_epoch(self) -> int:
        """Number of global batches in an epoch."""
        ...

    def batch(self, epoch: int, step: int) -> np.ndarray:
        """int64 rows of global batch `step` (0-based) of `epoch`."""
        ...


def rank_slice(rows: np.ndarray, rank: int, world_size: int) -> np.ndarray:
    """The contiguous block of a global batch that belongs to `rank`; blocks differ by at most one row."""
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} is outside 0..{world_size - 1}")
    return rows[len(rows) * rank // world_size : len(rows) * (rank + 1) // world_size]


def _check_rows(rows: np.ndarray, global_batch_size: int) -> np.ndarray:
    rows = np.asarray(rows, dtype=np.int64)
    if rows.ndim != 1 or len(rows) == 0:
        raise UserError("the plan has no segments: the chosen split or subjects are empty.")
    if global_batch_size < 1:
        raise UserError(f"global batch size {global_batch_size}; it must be at least 1.")
    return rows


def _check_step(step: int, steps_per_epoch: int) -> None:
    if not 0 <= step < steps_per_epoch:
        raise IndexError(f"step {step} is outside 0..{steps_per_epoch - 1}")


def _num_steps(num_rows: int, global_batch_size: int, drop_last: bool) -> int:
    full, rest = divmod(num_rows, global_batch_size)
    if drop_last and full == 0:
        raise UserError(f"{num_rows} segments do not fill a global batch of {global_batch_size}. Make it smaller.")
    return full if drop_last or rest == 0 else full + 1


class SequentialPlan:
    """Every row once, in the order given; the last batch may be shorter."""

    def __init__(self, rows: np.ndarray, global_batch_size: int) -> None:
        self.rows = _check_rows(rows, global_batch_size)
        self.global_batch_size = global_batch_size

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.rows) // self.global_batch_size)

    def batch(self, epoch: int, step: int) -> np.ndarray:
        _check_step(step, self.steps_per_epoch)
        return self.rows[step * self.global_batch_size : (step + 1) * self.global_batch_size]


class ShufflePlan:
    """Every row once per epoch, in an order drawn anew for each epoch; the last batch may be shorter.

    With `drop_last` the epoch ends with the last full batch, and a different remainder is left out in each epoch.
    """

    def __init__(self, rows: np.ndarray, seed: int, global_batch_size: int, *, drop_last: bool = False) -> None:
        self.rows = _check_rows(rows, global_batch_size)
        self.seed = seed
        self.global_batch_size = global_batch_size
        self._num_steps = _num_steps(len(self.rows), global_batch_size, drop_last)

    @property
    def steps_per_epoch(self) -> int:
        return self._num_steps

    def batch(self, epoch: int, step: int) -> np.ndarray:
        _check_step(step, self.steps_per_epoch)
        num_rows = len(self.rows)
        places = np.arange(step * self.global_batch_size, min((step + 1) * self.global_batch_size, num_rows))
        return self.rows[permute(places, num_rows, derive_key(self.seed, epoch))]


class BlockShufflePlan:
    """Every row once per epoch, shuffled within a window that moves over the shards, in a new order for each epoch.

    For data sets behind a URL: at any moment only about `window_shards` shards are being read, each completely, so
    that the order of reading is mostly sequential and the node's cache may be small. `shard` is index.shard of the
    rows. The quality of the shuffle depends on the length of the window and on how well the shards are mixed; `data
    repack --order shuffled` mixes them once.

    With `num_streams` S the shards are divided among S streams, and every global batch has S equal slices, one from
    each stream: if S is a multiple of the number of nodes, a node reads the shards of its own streams only (ranks take
    contiguous slices). S belongs to the plan, not to the run: any number of ranks gets the same batches.

    With `drop_last` the epoch ends with the last full batch. A step costs O(batch · log shards); the first step of an
    epoch costs O(shards) more.
    """

    def __init__(
        self,
        rows: np.ndarray,
        shard: np.ndarray,
        seed: int,
        global_batch_size: int,
        *,
        window_shards: int = 4,
        num_streams: int = 1,
        drop_last: bool = False,
    ) -> None:
        self.rows = _check_rows(rows, global_batch_size)
        shard = np.asarray(shard)
        if shard.shape != self.rows.shape:
            raise ValueError(f"{len(shard)} shards for {len(self.rows)} rows")
        if window_shards < 1 or num_streams < 1:
            raise UserError(f"window_shards {window_shards} and num_streams {num_streams} must be at least 1.")
        if global_batch_size % num_streams or num_streams > len(self.rows):
            raise UserError(f"num_streams {num_streams} must divide the global batch size {global_batch_size}.")
        if (np.diff(shard) < 0).any() or (np.diff(self.rows) < 0).any():
            order = np.lexsort((self.rows, shard))
            self.rows, shard = self.rows[order], shard[order]
        self.seed, self.global_batch_size = seed, global_batch_size
        self._num_steps = _num_steps(len(self.rows), global_batch_size, drop_last)
        self._num_streams = num_streams
        _, self._first, self._count = np.unique(shard, return_index=True, return_counts=True)
        self._window = max(1, round(window_shards * len(self.rows) / len(self._first)))
        self._drawn: tuple[int, np.ndarray, np.ndarray] | None = None

    @property
    def steps_per_epoch(self) -> int:
        return self._num_steps

    def batch(self, epoch: int, step: int) -> np.ndarray:
        _check_step(step, self.steps_per_epoch)
        num_rows, streams = len(self.rows), self._num_streams
        first = step * self.global_batch_size
        places = np.arange(first, min(first + self.global_batch_size, num_rows))
        # Stream j has places starts[j] to starts[j + 1] of the epoch's sequence of rows. While all streams have enough
        # rows left, a batch takes slice_size from each; what is left at the end is taken stream after stream.
        starts = np.arange(streams + 1) * num_rows // streams
        slice_size = self.global_batch_size // streams
        full_steps = num_rows // streams // slice_size
        if step < full_steps:
            stream, within = np.divmod(places - first, slice_size)
            within = within + step * slice_size
        else:
            left = np.cumsum(np.diff(starts) - full_steps * slice_size)
            rest = places - full_steps * self.global_batch_size
            stream = np.searchsorted(left, rest, side="right")
            within = rest - np.concatenate([[0], left])[stream] + full_steps * slice_size
        return self._rows_at(epoch, stream, within, starts)

    def _rows_at(self, epoch: int, stream: np.ndarray, within: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Rows at places `within` of streams: first the window's permutation, then the sequence of shards."""
        window, place = np.divmod(within, self._window)
        length = np.minimum(self._window, (starts[stream + 1] - starts[stream]) - window * self._window)
        keys = derive_key(self.seed, epoch, stream, window)
        sequence = starts[stream] + window * self._window + permute(place, length, keys)
        order, ends = self._shard_order(epoch)
        position = np.searchsorted(ends, sequence, side="right")
        shard = order[position]
        return self.rows[self._first[shard] + sequence - (ends[position] - self._count[shard])]

    def _shard_order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The shards in the epoch's order, and the number of rows up to the end of each."""
        if self._drawn is None or self._drawn[0] != epoch:
            num_shards = len(self._first)
            order = permute(np.arange(num_shards), num_shards, derive_key(self.seed, epoch, _SHARDS))
            self._drawn = (epoch, order, np.cumsum(self._count[order]))
        return self._drawn[1:]


class BalancedPlan:
    """P×K batches for triplet mining: every global batch holds P different classes with K rows each.

    Classes come in rounds, each class once per round, in an order drawn anew for each round. The rows of a class are
    used in passes, each in a new order: its K rows in a batch are different rows if it has K, and no row is used again
    before its pass has ended (a pass of n rows gives n // K batches; the remainder, which differs from pass to pass, is
    left out). A class of fewer than K rows repeats each of them equally often, up to one.

    `labels` are those of the rows given, in the same order; they may be any grouping, for instance subjects. With
    `need_pairs` every class must have two rows and K must be at least 2. Without, K = 1 gives batches in which no class
    comes twice, and a class of one row may be in the plan. `groups`: what messages call the classes.
    """

    def __init__(
        self,
        rows: np.ndarray,
        labels: np.ndarray,
        num_classes: int,
        num_samples: int,
        seed: int,
        *,
        need_pairs: bool = True,
        groups: str = "classes",
    ) -> None:
        self.rows = _check_rows(rows, num_classes * num_samples)
        labels = np.asarray(labels)
        if labels.shape != self.rows.shape:
            raise ValueError(f"{len(labels)} labels for {len(self.rows)} rows")
        if need_pairs and num_samples < 2:
            raise UserError(f"{num_samples} segments per class leave no positive pair; use at least 2.")
        self.num_classes, self.num_samples, self.seed = num_classes, num_samples, seed
        self.global_batch_size = num_classes * num_samples
        classes, counts = np.unique(labels, return_counts=True)
        if len(classes) < num_classes:
            raise UserError(
                f"{num_classes} {groups} per batch were asked for, the segments have {len(classes)}. Ask for fewer."
            )
        if need_pairs and (lonely := classes[counts < 2]).size:
            raise UserError(
                f"classes {lonely.tolist()[:20]} have fewer than two segments, so no positive pair. Leave them out or "
                "choose another split."
            )
        self._by_class = self.rows[np.argsort(labels, kind="stable")]  # rows, class after class
        self._classes = classes
        self._counts = counts.astype(np.int64)
        self._starts = np.cumsum(self._counts) - self._counts
        # After this many rounds a batch and a round end together; such a stretch is planned at once.
        self._rounds = num_classes // np.gcd(num_classes, len(classes))
        self._planned: tuple[tuple[int, int], np.ndarray] | None = None

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self.rows) // self.global_batch_size)

    @property
    def num_of_classes(self) -> int:
        """Classes in the plan, of which a batch holds `num_classes`."""
        return len(self._classes)

    @property
    def short_classes(self) -> dict[int, int]:
        """Label → number of rows of the classes that repeat rows within a batch, because they have fewer than K.

        Fewest rows first. In triplet mining equal rows are positive pairs at distance zero, which give no gradient.
        """
        short = np.flatnonzero(self._counts < self.num_samples)
        order = short[np.argsort(self._counts[short], kind="stable")]
        return {int(self._classes[place]): int(self._counts[place]) for place in order}

    def batch(self, epoch: int, step: int) -> np.ndarray:
        _check_step(step, self.steps_per_epoch)
        P, K, C = self.num_classes, self.num_samples, len(self._counts)
        batches_per_stretch = self._rounds * C // P
        stretch, batch = divmod(step, batches_per_stretch)
        places = np.arange(batch * P, (batch + 1) * P)
        classes = self._class_order(epoch, stretch)[places]  # [P]
        rounds = stretch * self._rounds + places // C  # [P]: how often the class has come before, this epoch
        counts = self._counts[classes]
        groups = np.maximum(counts // K, 1)  # batches in a pass
        passes, group = np.divmod(rounds, groups)
        within = (group[:, None] * K + np.arange(K)) % counts[
            :, None
        ]  # [P, K]; the remainder acts on small classes only
        keys = derive_key(self.seed, epoch, classes, passes)[:, None]
        chosen = permute(within, counts[:, None], keys)
        return self._by_class[self._starts[classes][:, None] + chosen].reshape(-1)

    def _class_order(self, epoch: int, stretch: int) -> np.ndarray:
        """Classes of one stretch, [rounds × C]: every round is a permutation, and every P consecutive ones differ."""
        if self._planned is None or self._planned[0] != (epoch, stretch):
            self._planned = ((epoch, stretch), self._plan_stretch(epoch, stretch))
        return self._planned[1]

    def _plan_stretch(self, epoch: int, stretch: int) -> np.ndarray:
        P, C = self.num_classes, len(self._counts)
        order = np.empty((self._rounds, C), dtype=np.int64)
        waiting = np.empty(0, dtype=np.int64)  # classes already in the batch that the next round completes
        for turn in range(self._rounds):
            key = derive_key(self.seed, epoch, stretch, turn + C)
            drawn = permute(np.arange(C), C, key)
            fresh = np.flatnonzero(~np.isin(drawn, waiting))[: (P - len(waiting)) % P]
            rest = np.ones(C, dtype=bool)
            rest[fresh] = False
            order[turn] = np.concatenate([drawn[fresh], drawn[rest]])
            left = (turn + 1) * C % P
            waiting = order[turn, C - left :]
        return order.reshape(-1)
