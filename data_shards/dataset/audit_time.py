"""Checks of the time of recording: whether it tells the class, and whether segments of two splits share samples.

Columns of segments are integers [number of segments]; `splits` holds positions in SPLITS (0 train, 1 val, 2 test).
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from neuroimagen.data_shards.dataset.dataset import Index
from neuroimagen.data_shards.dataset.findings import Finding, Level
from neuroimagen.data_shards.dataset.recording_time import shared_samples
from neuroimagen.data_shards.format.schema import SPLITS, segment_key

Integers = NDArray[np.integer]


def check_shared_samples(index: Index, *, n_samples: int, sfreq: float) -> Iterator[Finding]:
    """No segment of one split shares samples of its recording with a segment of another."""
    unknown = int(((index.recording_code < 0) | np.isnan(index.onset_s)).sum())
    if unknown == len(index):
        text = "the onsets of the segments are unknown, so segments of two splits may share samples"
        yield Finding(check="samples", level="note", text=text, figures={"unknown": unknown})
        return
    found = list(shared_samples(index, n_samples=n_samples, sfreq=sfreq))
    for each in found:
        examples = ", ".join(
            f"{segment_key(one)} and {segment_key(other)} of {index.recordings[index.recording_code[one]]}, "
            f"{abs(index.onset_s[one] - index.onset_s[other]):.3g} s apart"
            for one, other in each.examples
        )
        total = int((index.split_code == SPLITS.index(each.split)).sum())
        text = (
            f"{each.count} of {total} {each.split} segments share samples with {each.other} segments ({examples}): "
            "divide by session, by subject or by recording, or cut shorter segments"
        )
        level: Level = "problem" if each.split == "test" else "note"
        yield Finding(check="samples", level=level, text=text, figures={"shared": each.count})
    if not found:
        text = "no segments of two splits share samples"
        if unknown:
            text += f"; {unknown} of {len(index)} segments have no onset and are left out"
        yield Finding(check="samples", level="good", text=text, figures={"shared": 0, "unknown": unknown})


def check_time(
    labels: Integers, subjects: Integers, blocks: Integers, orders: Integers, splits: Integers, *, origin: str = ""
) -> Iterator[Finding]:
    """Whether the class can be told from the time of recording. `origin`: how blocks are known, if not as recorded."""
    if (blocks < 0).any():
        text = (
            "the order of recording is unknown, so class and time may be confounded; results are only as good as the "
            "order in which the images were shown"
        )
        yield Finding(check="time", level="note", text=text, figures={})
        return
    pure = total = 0
    for subject in np.unique(subjects):
        own = subjects == subject
        for block in np.unique(blocks[own]):
            counts = np.bincount(labels[own & (blocks == block)])
            total += 1
            pure += int(counts.max() == counts.sum() and counts.sum() > 1)
    accuracy, chance = time_accuracy(labels, subjects, blocks, orders, splits)
    told = share_told_by_block(labels, subjects, blocks, splits)
    figures = {
        **{"blocks": total, "blocks_of_one_class": pure},
        **{"accuracy": accuracy, "chance": chance, "told_by_block": told},
    }
    text = (
        f"{pure} of {total} blocks hold one class only; the class of the training segment nearest in time is right for "
        f"{100 * accuracy:.1f} % of the test segments (shuffled labels: {100 * chance:.1f} %)"
    )
    if origin:
        text += f" ({origin})"
    # Half of the way from chance to certainty, where that is less than twice chance: with two classes, twice chance is
    # certainty.
    if told > 0.5 or (accuracy > min(2 * chance, (1 + chance) / 2) and accuracy - chance > 0.1):
        text += (
            ". Time tells the class, so a decoder of slow drift can pass for a decoder of the class. Run `evaluate "
            "--controls`, or split by subject"
        )
        yield Finding(check="time", level="problem", text=text, figures=figures)
    else:
        yield Finding(check="time", level="good", text=f"{text}. Time does not tell the class", figures=figures)


def share_told_by_block(labels: Integers, subjects: Integers, blocks: Integers, splits: Integers) -> float:
    """The share of test segments, 0 to 1, whose class the training segments of their block give away.

    These are the segments of the same subject and block, where there are two or more and all of the same class.
    """
    told = total = 0
    for subject in np.unique(subjects):
        own = subjects == subject
        for block in np.unique(blocks[own]):
            here = own & (blocks == block)
            train, test = labels[here & (splits == 0)], labels[here & (splits == 2)]
            total += len(test)
            if len(train) > 1 and len(np.unique(train)) == 1:
                told += int((test == train[0]).sum())
    return told / max(total, 1)


def time_accuracy(
    labels: Integers, subjects: Integers, blocks: Integers, orders: Integers, splits: Integers
) -> tuple[float, float]:
    """Accuracy of predicting the class of the subject's training segment nearest in time, and of the same with
    shuffled labels, which is at least that of guessing one class.
    """
    rng = np.random.default_rng(0)
    time = blocks * 2 * (int(orders.max()) + 1) + orders  # nearest in time are those of the same block
    hits = shuffled_hits = total = 0
    for subject in np.unique(subjects):
        train = np.flatnonzero((subjects == subject) & (splits == 0))
        test = np.flatnonzero((subjects == subject) & (splits == 2))
        if not len(train) or not len(test):
            continue
        train = train[np.argsort(time[train], kind="stable")]
        after = np.clip(np.searchsorted(time[train], time[test]), 1, max(1, len(train) - 1))
        before = after - 1
        after = np.minimum(after, len(train) - 1)
        nearest = np.where(time[test] - time[train[before]] <= time[train[after]] - time[test], before, after)
        hits += int((labels[train[nearest]] == labels[test]).sum())
        shuffled_hits += int((labels[rng.permutation(train)[nearest]] == labels[test]).sum())
        total += len(test)
    return hits / max(total, 1), max(shuffled_hits / max(total, 1), 1 / max(len(np.unique(labels)), 1))
