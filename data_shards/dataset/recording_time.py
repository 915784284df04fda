"""When segments were recorded, as far as the index tells: blocks and orders, and segments that share samples.

Columns have one entry per segment. Everything is sorted once, so that a million segments take seconds.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuroimagen.data_shards.common.natural_order import natural_key
from neuroimagen.data_shards.dataset.dataset import Index
from neuroimagen.data_shards.format.schema import SPLITS

Integers = NDArray[np.integer]
STRETCH_SEGMENTS = 50
"""Segments in a stretch of a recording without blocks; EEGCVPR40 has as many in a block."""


@dataclass(frozen=True, kw_only=True)
class RecordingTime:
    """Time as a block (counted within the subject) and the order within it, int64; −1 where it is unknown."""

    blocks: Integers
    orders: Integers
    origin: str
    """Where they come from, in words; empty if both are in the index, or unknown."""

    @property
    def is_known(self) -> bool:
        return not ((self.blocks < 0).any() or (self.orders < 0).any())


def recording_time(index: Index, *, stretch: int | None = None) -> RecordingTime:
    """Block and order of every segment of an index.

    They are the index's own where it has blocks; an order that it lacks follows from the onsets. Where it has no
    blocks, each recording is one block, and the order is that of the onsets (or the index's order, if there are no
    onsets); `stretch` divides recordings into blocks of about that many segments. A subject's recordings follow each
    other in the natural order of session and name.
    """
    blocks: Integers = index.block.astype(np.int64)
    orders: Integers = index.order.astype(np.int64)
    has_onsets = not np.isnan(index.onset_s).any()
    unknown = RecordingTime(blocks=blocks, orders=orders, origin="")
    if not len(blocks) or not (has_onsets or (orders >= 0).all()):
        return unknown
    if (blocks >= 0).all():
        blocks = _blocks_over_sessions(index, blocks)
        if (orders >= 0).all():
            return RecordingTime(blocks=blocks, orders=orders, origin="")
        orders = _ranks(index.subject.astype(np.int64), blocks, index.recording_code, time=index.onset_s)
        return RecordingTime(blocks=blocks, orders=orders, origin="the order in a block is that of the onsets")
    if (index.recording_code < 0).any():
        return unknown
    time = index.onset_s if has_onsets else orders.astype(np.float64)
    codes = index.recording_code
    orders = _ranks(codes, time=time)
    sizes = np.bincount(codes, minlength=len(index.recordings))
    counts = np.ones_like(sizes) if stretch is None else np.maximum(1, np.round(sizes / stretch)).astype(np.int64)
    size, count = sizes[codes], counts[codes]
    within = orders * count // size  # number of the stretch in its recording
    origin = "blocks are not recorded; each recording is taken for one"
    if stretch is not None:
        origin = f"blocks are not recorded; recordings are divided into stretches of about {stretch} segments"
    return RecordingTime(
        blocks=_first_blocks(index, counts)[codes] + within,
        orders=orders - -(-within * size // count),  # counted from the stretch's first
        origin=origin,
    )


def _blocks_over_sessions(index: Index, blocks: Integers) -> Integers:
    """The blocks, counted over a subject's sessions where the index counts them anew in each session."""
    session = index.session_code.astype(np.int64)
    places = np.stack([index.subject.astype(np.int64), blocks])
    if (session < 0).any() or np.unique(places, axis=1).shape[1] == np.unique([*places, session], axis=1).shape[1]:
        return blocks
    rank = np.empty(len(index.sessions), dtype=np.int64)
    rank[sorted(range(len(rank)), key=lambda code: natural_key(index.sessions[code]))] = np.arange(len(rank))
    return rank[session] * (int(blocks.max()) + 1) + blocks


def _first_blocks(index: Index, counts: Integers) -> Integers:
    """Number of each recording's first block among its subject's, where recording r has counts[r] blocks."""
    codes, rows = np.unique(index.recording_code, return_index=True)
    names = [
        (int(index.subject[row]), natural_key(str(index.session[row])), natural_key(index.recordings[code]), code)
        for code, row in zip(codes.tolist(), rows.tolist(), strict=True)
    ]
    first = np.zeros(len(counts), dtype=np.int64)
    taken: dict[int, int] = {}
    for subject, _, _, code in sorted(names):
        first[code] = taken.get(subject, 0)
        taken[subject] = first[code] + int(counts[code])
    return first


def _ranks(*groups: Integers, time: NDArray[np.floating]) -> Integers:
    """The place of each segment among those of its group in time, from 0."""
    order = np.lexsort((time, *groups))
    is_first = np.ones(len(order), dtype=bool)
    if len(order) > 1:
        is_first[1:] = np.logical_or.reduce([np.diff(group[order]) != 0 for group in groups])
    places = np.arange(len(order))
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = places - np.maximum.accumulate(np.where(is_first, places, 0))
    return ranks


@dataclass(frozen=True, kw_only=True)
class SharedSamples:
    """Segments of one split that share samples with segments of another."""

    split: str
    other: str
    count: int
    """Segments of `split` that share samples with at least one of `other`."""
    examples: tuple[tuple[int, int], ...]
    """The first pairs of rows: one of `split`, one of `other`."""


def shared_samples(index: Index, *, n_samples: int, sfreq: float, examples: int = 3) -> Iterator[SharedSamples]:
    """For each two splits in order (test before val before train), the segments of the first that share samples.

    Segments share samples where they are of one recording and begin less than a segment's length apart. Segments whose
    recording or onset is unknown are left out.
    """
    known = np.flatnonzero((index.recording_code >= 0) & ~np.isnan(index.onset_s))
    if not len(known):
        return
    # Half a sample less, because onsets in seconds are rounded.
    length = (n_samples - 0.5) / sfreq
    samples = np.round(index.onset_s[known] * sfreq).astype(np.int64)
    samples -= samples.min()
    # One axis for all recordings, on which segments of different recordings are further apart than a segment.
    place = index.recording_code[known].astype(np.int64) * (int(samples.max()) + 2 * n_samples) + samples
    reach = int(np.ceil(length * sfreq)) - 1
    order = np.argsort(place, kind="stable")
    known, place = known[order], place[order]
    splits = index.split_code[known]
    for one, other in ((2, 0), (2, 1), (1, 0)):
        rows, others = known[splits == one], known[splits == other]
        here, there = place[splits == one], place[splits == other]
        low, high = np.searchsorted(there, here - reach), np.searchsorted(there, here + reach, side="right")
        hit = np.flatnonzero(high > low)
        if len(hit):
            pairs = tuple((int(rows[each]), int(others[low[each]])) for each in hit[:examples].tolist())
            yield SharedSamples(split=SPLITS[one], other=SPLITS[other], count=len(hit), examples=pairs)
