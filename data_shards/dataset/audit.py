"""Is a split fit to be believed? What the index, the pictures and the order of recording say; no model, no EEG.

Each check is a pure function of columns and returns findings; `audit` runs them all over a data set.
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
"""Pictures whose 256-bit fingerprints differ in as many bits or fewer count as near duplicates."""
HASH_PX = 16
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
    parts = index.split_code.astype(np.int64)
    stimuli, labels, subjects = (values.astype(np.int64) for values in (index.stimulus, index.label, index.subject))
    fingerprints = np.stack(
        [
            fingerprint(np.asarray(dataset.stimuli.image(number).convert("L").resize((HASH_PX + 1, HASH_PX))))
            for number in track(range(len(dataset.stimuli)), total=len(dataset.stimuli), desc="pictures")
        ]
    )
    names = [item.name for item in dataset.metadata.classes]
    content = [bytes(dataset.stimuli.encoded(number)) for number in range(len(dataset.stimuli))]
    return [
        *check_classes(labels, parts, names),
        *check_shared_stimuli(stimuli, parts, dataset.stimuli.keys),
        *check_equal_pictures(content, fingerprints, stimuli, parts, dataset.stimuli.keys),
        *check_equal_segments(index.crc32, index.size, parts),
        *check_subjects(subjects, parts, dataset.metadata.split_rule),
        *check_time(
            *(labels, subjects, index.block.astype(np.int64), index.order.astype(np.int64), parts),
            derived=str(dataset.metadata.provenance.get("block_and_order", "")).startswith("derived"),
        ),
    ]


def check_classes(labels: Integers, parts: Integers, names: Sequence[str]) -> Iterator[Finding]:
    """Every class has training and test segments, in like proportion; or none has both, which is a zero-shot split."""
    counts = np.stack([np.bincount(labels[parts == part], minlength=len(names)) for part in range(len(SPLITS))])
    trained, tested = counts[0] > 0, counts[2] > 0
    level: Level
    if tested.any() and not (trained & tested).any():
        text = (
            f"zero-shot: none of the {tested.sum()} classes in the test part is trained on, so pictures can be told "
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
            f"{len(test)} classes in the test part, {test.min()} to {test.max()} segments each; always naming the "
            f"commonest is right {100 * largest:.1f} % of the time"
        )
        level = "note" if test.max() > 1.5 * test.min() else "good"
        yield Finding(check="classes", level=level, text=text, figures={"commonest": largest})


def check_shared_stimuli(stimuli: Integers, parts: Integers, keys: Sequence[str]) -> Iterator[Finding]:
    """No stimulus is in two parts."""
    shown_in = np.zeros((len(keys), len(SPLITS)), dtype=bool)
    shown_in[stimuli, parts] = True
    leaked = np.flatnonzero(shown_in[:, 2] & (shown_in[:, 0] | shown_in[:, 1]))
    if len(leaked):
        text = (
            f"{len(leaked)} of {int(shown_in[:, 2].sum())} test stimuli are in the training or validation part too "
            f"({_listed([keys[number] for number in leaked.tolist()])}): split by image"
        )
        yield Finding(check="stimuli", level="problem", text=text, figures={"shared": len(leaked)})
    else:
        text = "no test stimulus is in the training or validation part"
        yield Finding(check="stimuli", level="good", text=text, figures={"shared": 0})


def check_equal_pictures(
    content: Sequence[bytes],
    fingerprints: NDArray[np.bool_],
    stimuli: Integers,
    parts: Integers,
    keys: Sequence[str],
) -> Iterator[Finding]:
    """No test picture is, byte for byte or nearly, a training picture under another name."""
    training = np.unique(stimuli[parts != 2])
    test = np.setdiff1d(np.unique(stimuli[parts == 2]), training)
    owners: dict[bytes, int] = {content[number]: number for number in training.tolist()}
    equal = [(number, owners[content[number]]) for number in test.tolist() if content[number] in owners]
    near = [pair for pair in near_pairs(fingerprints, test, training) if pair not in set(equal)]
    for pairs, what, level in ((equal, "the same file as", "problem"), (near, "nearly the same picture as", "note")):
        if pairs:
            examples = _listed([f"{keys[one]} = {keys[other]}" for one, other in pairs])
            count = len({one for one, _ in pairs})
            text = f"{count} test pictures are {what} a training or validation picture of another name: {examples}"
            yield Finding(check="pictures", level=level, text=text, figures={"pictures": count})  # type: ignore[arg-type]
    if not equal and not near:
        text = "no test picture is a copy of a training or validation picture"
        yield Finding(check="pictures", level="good", text=text, figures={"pictures": 0})


def fingerprint(grey: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Difference hash of a grey picture [16, 17]: which pixels are clearly brighter than their left neighbour, [256].

    A margin keeps flat areas, which say nothing, from deciding.
    """
    return (np.diff(grey.astype(np.int64), axis=1) > _FLAT_GREY_LEVELS).ravel()


def near_pairs(fingerprints: NDArray[np.bool_], test: Integers, training: Integers) -> list[tuple[int, int]]:
    """(test, training stimulus) whose fingerprints differ in at most NEAR_BITS bits; featureless ones never."""
    signs = fingerprints.astype(np.float32)
    weight = signs.sum(axis=1)
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(test), _CHUNK):
        rows = test[start : start + _CHUNK]
        differing = weight[rows][:, None] + weight[training][None] - 2 * signs[rows] @ signs[training].T
        telling = (weight[rows] > 4 * NEAR_BITS)[:, None]
        for one, other in np.argwhere((differing <= NEAR_BITS) & telling):
            pairs.append((int(rows[one]), int(training[other])))
    return pairs


def check_equal_segments(crc32: Integers, sizes: Integers, parts: Integers) -> Iterator[Finding]:
    """No EEG segment is in two parts. Equal checksums of equal sizes are taken as equal segments."""
    content = crc32.astype(np.int64) * (int(sizes.max()) + 1) + sizes
    copies = np.isin(content[parts == 2], content[parts != 2])
    if copies.any():
        text = f"{int(copies.sum())} test segments hold the same EEG as a training or validation segment"
        yield Finding(check="segments", level="problem", text=text, figures={"copies": int(copies.sum())})
    else:
        text = "no test segment holds the EEG of another part"
        yield Finding(check="segments", level="good", text=text, figures={"copies": 0})


def check_subjects(subjects: Integers, parts: Integers, split_rule: str) -> Iterator[Finding]:
    """Whether subjects are tested that were trained on, and whether the split's rule says so."""
    train, test = set(subjects[parts != 2].tolist()), set(subjects[parts == 2].tolist())
    shared = sorted(train & test)
    figures = {"shared": len(shared), "test": len(test)}
    if shared and re.search(r"subject.*(left out|leave)|leave.*subject", split_rule):
        text = f"the split is called {split_rule!r}, but subjects {shared} are in the training and the test part"
        yield Finding(check="subjects", level="problem", text=text, figures=figures)
    elif shared:
        text = (
            f"{len(shared)} of {len(test)} test subjects are trained on: figures are for known subjects. "
            "`data ingest --split leave-subject-out:S` makes the other kind"
        )
        yield Finding(check="subjects", level="note", text=text, figures=figures)
    else:
        text = "no test subject is trained on"
        yield Finding(check="subjects", level="good", text=text, figures=figures)


def check_time(
    labels: Integers, subjects: Integers, blocks: Integers, orders: Integers, parts: Integers, *, derived: bool = False
) -> Iterator[Finding]:
    """Whether the time of recording gives the class away. `derived`: blocks are a guess, a class each."""
    if (blocks < 0).any():
        text = (
            "the order of recording is unknown, so class and time may be confounded: figures are worth no more than "
            "the way in which the pictures were ordered"
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
    accuracy, chance = time_accuracy(labels, subjects, blocks, orders, parts)
    told = share_told_by_block(labels, subjects, blocks, parts)
    figures = {
        **{"blocks": total, "blocks_of_one_class": pure},
        **{"accuracy": accuracy, "chance": chance, "told_by_block": told},
    }
    text = (
        f"{pure} of {total} blocks hold one class only; the class of the training segment nearest in time is right for "
        f"{100 * accuracy:.1f} % of the test segments (shuffled labels: {100 * chance:.1f} %)"
    )
    # Half of the way from chance to certain, where that is less than twice chance: of two classes nothing is twice.
    if derived:
        text += ". The blocks are not recorded but taken to be the classes, as in EEGCVPR40"
    if told > 0.5 or (accuracy > min(2 * chance, (1 + chance) / 2) and accuracy - chance > 0.1):
        text += ". Time tells the class: slow drift can pass for it. Run `evaluate --controls`, or a split by subject"
        yield Finding(check="time", level="problem", text=text, figures=figures)
    else:
        yield Finding(check="time", level="good", text=f"{text}. Time does not tell the class", figures=figures)


def share_told_by_block(labels: Integers, subjects: Integers, blocks: Integers, parts: Integers) -> float:
    """The share of test segments, 0..1, in whose block of the same subject all training segments are of their class
    (two at least: one segment is no block)."""
    told = total = 0
    for subject in np.unique(subjects):
        own = subjects == subject
        for block in np.unique(blocks[own]):
            here = own & (blocks == block)
            train, test = labels[here & (parts == 0)], labels[here & (parts == 2)]
            total += len(test)
            if len(train) > 1 and len(np.unique(train)) == 1:
                told += int((test == train[0]).sum())
    return told / max(total, 1)


def time_accuracy(
    labels: Integers, subjects: Integers, blocks: Integers, orders: Integers, parts: Integers
) -> tuple[float, float]:
    """Accuracy of the class of the subject's training segment nearest in time, and the same with shuffled labels."""
    rng = np.random.default_rng(0)
    time = blocks * 2 * (int(orders.max()) + 1) + orders  # segments of the same block are nearer than all others
    hits = shuffled_hits = total = 0
    for subject in np.unique(subjects):
        train = np.flatnonzero((subjects == subject) & (parts == 0))
        test = np.flatnonzero((subjects == subject) & (parts == 2))
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
