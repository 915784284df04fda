"""Checks whether results on a data set's split can be believed, from the index, the images and the order of recording.

It needs no model and no EEG. Each check is a pure function of columns that returns findings; `audit` runs all of them
on a data set.

Columns of segments are integers [number of segments]; `splits` holds positions in SPLITS (0 train, 1 val, 2 test).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from neuroimagen.data_shards.common.progress import track
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.format.schema import SPLITS

Integers = NDArray[np.integer]
Level = Literal["problem", "note", "good"]
NEAR_BITS = 3
"""Images whose 256-bit fingerprints differ in at most this many bits count as near duplicates."""
HASH_PX = 16
"""Side of the grid that a fingerprint is made of."""
_FLAT_GREY_LEVELS = 12
_CHUNK = 2048
_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One statement of an audit."""

    check: str
    level: Level
    text: str
    figures: Mapping[str, float]


def audit(dataset: Dataset) -> list[Finding]:
    """All findings about a data set's split."""
    index = dataset.index
    splits = index.split_code.astype(np.int64)
    stimuli, labels, subjects = (values.astype(np.int64) for values in (index.stimulus, index.label, index.subject))
    fingerprints = np.stack(
        [
            fingerprint(np.asarray(dataset.stimuli.image(number).convert("L").resize((HASH_PX + 1, HASH_PX))))
            for number in track(range(len(dataset.stimuli)), total=len(dataset.stimuli), desc="images")
        ]
    )
    names = [item.name for item in dataset.metadata.classes]
    content = [bytes(dataset.stimuli.encoded(number)) for number in range(len(dataset.stimuli))]
    return [
        *check_classes(labels, splits, names),
        *check_shared_stimuli(stimuli, splits, dataset.stimuli.keys),
        *check_equal_images(content, fingerprints, stimuli, splits, dataset.stimuli.keys),
        *check_equal_segments(index.crc32, index.size, splits),
        *check_subjects(subjects, splits, dataset.metadata.split_rule),
        *check_time(
            *(labels, subjects, index.block.astype(np.int64), index.order.astype(np.int64), splits),
            derived=str(dataset.metadata.provenance.get("block_and_order", "")).startswith("derived"),
        ),
    ]


def check_classes(labels: Integers, splits: Integers, names: Sequence[str]) -> Iterator[Finding]:
    """Every class has training and test segments in similar proportions; or none has both, as in a zero-shot split."""
    counts = np.stack([np.bincount(labels[splits == split], minlength=len(names)) for split in range(len(SPLITS))])
    trained, tested = counts[0] > 0, counts[2] > 0
    level: Level
    if tested.any() and not (trained & tested).any():
        text = (
            f"zero-shot: none of the {tested.sum()} classes in the test split is trained on, so images can be told "
            "apart and retrieved, but their class cannot be decoded"
        )
        yield Finding(check="classes", level="note", text=text, figures={"zero_shot": int(tested.sum())})
    else:
        for missing, name, level in (
            (tested & ~trained, "test segments but no train segment", "problem"),
            (~tested & ~trained, "neither train nor test segments", "note"),
            (~tested & trained, "no test segment", "note"),
        ):
            if missing.any():
                absent = [names[label] for label in np.flatnonzero(missing).tolist()]
                text = f"{len(absent)} of {len(names)} classes have {name}: {_listed(absent)}"
                yield Finding(check="classes", level=level, text=text, figures={"absent": len(absent)})
    test = counts[2][counts[2] > 0]
    if len(test):
        largest = float(test.max() / test.sum())
        text = (
            f"{len(test)} classes in the test split, {test.min()} to {test.max()} segments each; always guessing the "
            f"most frequent class is right {100 * largest:.1f} % of the time"
        )
        level = "note" if test.max() > 1.5 * test.min() else "good"
        yield Finding(check="classes", level=level, text=text, figures={"commonest": largest})


def check_shared_stimuli(stimuli: Integers, splits: Integers, keys: Sequence[str]) -> Iterator[Finding]:
    """No test stimulus is in the training or validation split."""
    shown_in = np.zeros((len(keys), len(SPLITS)), dtype=bool)
    shown_in[stimuli, splits] = True
    leaked = np.flatnonzero(shown_in[:, 2] & (shown_in[:, 0] | shown_in[:, 1]))
    if len(leaked):
        text = (
            f"{len(leaked)} of {int(shown_in[:, 2].sum())} test stimuli are also in the training or validation split "
            f"({_listed([keys[number] for number in leaked.tolist()])}): split by image"
        )
        yield Finding(check="stimuli", level="problem", text=text, figures={"shared": len(leaked)})
    else:
        text = "no test stimulus is in the training or validation split"
        yield Finding(check="stimuli", level="good", text=text, figures={"shared": 0})


def check_equal_images(
    content: Sequence[bytes],
    fingerprints: NDArray[np.bool_],
    stimuli: Integers,
    splits: Integers,
    keys: Sequence[str],
) -> Iterator[Finding]:
    """No test image equals a training image of another name, byte for byte or nearly."""
    training = np.unique(stimuli[splits != 2])
    test = np.setdiff1d(np.unique(stimuli[splits == 2]), training)
    owners: dict[bytes, int] = {content[number]: number for number in training.tolist()}
    equal = [(number, owners[content[number]]) for number in test.tolist() if content[number] in owners]
    near = [pair for pair in near_pairs(fingerprints, test, training) if pair not in set(equal)]
    for pairs, what, level in ((equal, "the same file as", "problem"), (near, "nearly the same image as", "note")):
        if pairs:
            examples = _listed([f"{keys[one]} = {keys[other]}" for one, other in pairs])
            count = len({one for one, _ in pairs})
            text = f"{count} test images are {what} a training or validation image of another name: {examples}"
            yield Finding(check="images", level=level, text=text, figures={"images": count})  # type: ignore[arg-type]
    if not equal and not near:
        text = "no test image is a copy of a training or validation image"
        yield Finding(check="images", level="good", text=text, figures={"images": 0})


def fingerprint(grey: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Difference hash of a grey image [16, 17]: which pixels are clearly brighter than their left neighbour, [256].

    The margin keeps noise in flat areas out of the fingerprint.
    """
    return (np.diff(grey.astype(np.int64), axis=1) > _FLAT_GREY_LEVELS).ravel()


def near_pairs(fingerprints: NDArray[np.bool_], test: Integers, training: Integers) -> list[tuple[int, int]]:
    """Pairs (test, training stimulus) whose fingerprints differ in at most NEAR_BITS bits; flat images form none."""
    signs = fingerprints.astype(np.float32)
    weight = signs.sum(axis=1)
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(test), _CHUNK):
        rows = test[start : start + _CHUNK]
        differing = weight[rows][:, None] + weight[training][None] - 2 * signs[rows] @ signs[training].T
        distinctive = (weight[rows] > 4 * NEAR_BITS)[:, None]
        for one, other in np.argwhere((differing <= NEAR_BITS) & distinctive):
            pairs.append((int(rows[one]), int(training[other])))
    return pairs


def check_equal_segments(crc32: Integers, sizes: Integers, splits: Integers) -> Iterator[Finding]:
    """No test segment equals one of another split. Equal checksums of equal sizes are taken for equal segments."""
    content = crc32.astype(np.int64) * (int(sizes.max()) + 1) + sizes
    copies = np.isin(content[splits == 2], content[splits != 2])
    if copies.any():
        text = f"{int(copies.sum())} test segments hold the same EEG as a training or validation segment"
        yield Finding(check="segments", level="problem", text=text, figures={"copies": int(copies.sum())})
    else:
        text = "no test segment holds the EEG of another split"
        yield Finding(check="segments", level="good", text=text, figures={"copies": 0})


def check_subjects(subjects: Integers, splits: Integers, split_rule: str) -> Iterator[Finding]:
    """Whether test subjects are also trained on, and whether that fits the name of the split's rule."""
    train, test = set(subjects[splits != 2].tolist()), set(subjects[splits == 2].tolist())
    shared = sorted(train & test)
    figures = {"shared": len(shared), "test": len(test)}
    if shared and re.search(r"subject.*(left out|leave)|leave.*subject", split_rule):
        text = f"the split is called {split_rule!r}, but subjects {shared} are in the training and the test split"
        yield Finding(check="subjects", level="problem", text=text, figures=figures)
    elif shared:
        text = (
            f"{len(shared)} of {len(test)} test subjects are trained on, so results hold for known subjects. "
            "`data ingest --split leave-subject-out:S` makes a split for unknown ones"
        )
        yield Finding(check="subjects", level="note", text=text, figures=figures)
    else:
        text = "no test subject is trained on"
        yield Finding(check="subjects", level="good", text=text, figures=figures)


def check_time(
    labels: Integers, subjects: Integers, blocks: Integers, orders: Integers, splits: Integers, *, derived: bool = False
) -> Iterator[Finding]:
    """Whether the class can be told from the time of recording. `derived`: blocks are not known but one per class."""
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
    if derived:
        text += ". The blocks are not recorded; each class is taken for one block, as in EEGCVPR40"
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


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
