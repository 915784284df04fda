"""Checks whether results on a data set can be believed, from the index, the images, the order of recording and the EEG.

It needs no model. Each check is a pure function that returns findings; `audit` runs all of them on a data set,
`quick_audit` those that read no image and no EEG.

Columns of segments are integers [number of segments]; `splits` holds positions in SPLITS (0 train, 1 val, 2 test).
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from neuroimagen.data_shards.dataset.audit_eeg import check_eeg, measure_eeg
from neuroimagen.data_shards.dataset.audit_images import check_equal_images, compare_images
from neuroimagen.data_shards.dataset.audit_time import check_shared_samples, check_time
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.findings import Finding, Level, listed
from neuroimagen.data_shards.dataset.recording_time import recording_time
from neuroimagen.data_shards.format.schema import SPLITS, ClassInfo

Integers = NDArray[np.integer]
FEW_SHARE = 0.5
"""A subject has few segments where it has less than this share of the median subject's."""


def audit(dataset: Dataset, *, eeg: bool = True) -> list[Finding]:
    """All findings about a data set; without `eeg`, those that need no EEG."""
    index = dataset.index
    splits = index.split_code.astype(np.int64)
    digests, fingerprints = compare_images(dataset.stimuli)
    labels, subjects = index.label.astype(np.int64), index.subject.astype(np.int64)
    time = recording_time(index)
    derived = str(dataset.metadata.provenance.get("block_and_order", "")).startswith("derived")
    per_class = "the blocks are not recorded; each class is taken for one block, as in EEGCVPR40"
    return [
        *quick_audit(dataset),
        *check_equal_images(digests, fingerprints, index.stimulus.astype(np.int64), splits, dataset.stimuli.keys),
        *check_equal_segments(index.crc32, index.size, splits),
        *check_time(
            *(labels, subjects, time.blocks, time.orders, splits), origin=per_class if derived else time.origin
        ),
        *(check_eeg(measure_eeg(dataset), dataset.metadata) if eeg else ()),
    ]


def quick_audit(dataset: Dataset) -> list[Finding]:
    """Findings that the index and dataset.json alone allow."""
    index, metadata = dataset.index, dataset.metadata
    splits = index.split_code.astype(np.int64)
    stimuli, labels, subjects = (values.astype(np.int64) for values in (index.stimulus, index.label, index.subject))
    return [
        *check_classes(labels, splits, [item.name for item in metadata.classes]),
        *check_spelling(metadata.classes),
        *check_shared_stimuli(stimuli, splits, dataset.stimuli.keys),
        *check_subjects(subjects, splits, metadata.split_rule),
        *check_trials(subjects),
        *check_shared_samples(index, n_samples=metadata.n_samples, sfreq=metadata.sfreq),
    ]


def notes_at_ingest(dataset: Dataset) -> list[str]:
    """What the index alone shows to be wrong with a data set that was just written, one sentence each."""
    wanted = ("spelling", "trials", "samples")
    return [
        finding.text
        for finding in quick_audit(dataset)
        if finding.level == "problem"
        or (finding.level == "note" and finding.check in wanted and not finding.figures.get("unknown"))
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
                text = f"{len(absent)} of {len(names)} classes have {name}: {listed(absent)}"
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


def check_spelling(classes: Sequence[ClassInfo]) -> Iterator[Finding]:
    """No two classes have names that differ in spelling only: in case, spaces, '_' and '-', or forms of a character.

    Two classes with different WordNet ids are two classes, whatever their names.
    """
    alike: dict[str, list[ClassInfo]] = {}
    for item in classes:
        plain = unicodedata.normalize("NFKC", item.name).casefold()
        alike.setdefault(re.sub(r"[\s_-]+", " ", plain).strip(), []).append(item)
    pairs = [
        f"{group[0].name!r} and {item.name!r}"
        for group in alike.values()
        for item in group[1:]
        if not (item.wnid and group[0].wnid and item.wnid != group[0].wnid)
    ]
    if pairs:
        text = (
            f"{len(pairs)} classes differ from another in spelling only: {listed(pairs)}. Write them alike if they are "
            "one class"
        )
        yield Finding(check="spelling", level="note", text=text, figures={"classes": len(pairs)})
    else:
        yield Finding(check="spelling", level="good", text="no classes differ in spelling only", figures={"classes": 0})


def check_shared_stimuli(stimuli: Integers, splits: Integers, keys: Sequence[str]) -> Iterator[Finding]:
    """No test stimulus is in the training or validation split."""
    shown_in = np.zeros((len(keys), len(SPLITS)), dtype=bool)
    shown_in[stimuli, splits] = True
    leaked = np.flatnonzero(shown_in[:, 2] & (shown_in[:, 0] | shown_in[:, 1]))
    if len(leaked):
        text = (
            f"{len(leaked)} of {int(shown_in[:, 2].sum())} test stimuli are also in the training or validation split "
            f"({listed([keys[number] for number in leaked.tolist()])}): split by image"
        )
        yield Finding(check="stimuli", level="problem", text=text, figures={"shared": len(leaked)})
    else:
        text = "no test stimulus is in the training or validation split"
        yield Finding(check="stimuli", level="good", text=text, figures={"shared": 0})


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


def check_trials(subjects: Integers) -> Iterator[Finding]:
    """No subject has far fewer segments than the others."""
    people, counts = np.unique(subjects, return_counts=True)
    if len(people) < 2:
        return
    typical = float(np.median(counts))
    few = np.flatnonzero(counts < FEW_SHARE * typical)
    if len(few):
        named = listed([f"subject {people[each]}: {counts[each]}" for each in few.tolist()])
        text = (
            f"{len(few)} of {len(people)} subjects have fewer than half of the median subject's {typical:g} segments "
            f"({named}): was a recording left out?"
        )
        yield Finding(check="trials", level="note", text=text, figures={"few": len(few), "median": typical})
    else:
        text = f"{counts.min()} to {counts.max()} segments per subject"
        yield Finding(check="trials", level="good", text=text, figures={"few": 0, "median": typical})
