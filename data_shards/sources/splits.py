"""How segments are divided into train, val and test: one mechanism for every source.

A rule is named by the text of `--split`: a published fold, by image, by session, or one subject left out. Every rule
assigns a split to each recorded segment *before* any subject or length filter: the published split files hold positions
in the unfiltered list, and filtering first silently shifts them.

A source whose segments have subjects, sessions and images calls `divide` once and drops the segments that are DROPPED;
a zero-shot source (test images of classes that training never shows) calls `divide_zero_shot`. Columns of segments are
arrays [number of segments].
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np

from neuroimagen.data_shards.common.errors import UsageError, UserError
from neuroimagen.data_shards.common.natural_order import natural_key

DROPPED = ""
"""Stands for the split of a segment that is in none of train, val and test."""
OWN_RULES = "by-image, by-session or leave-subject-out:S"
RULES = f"fold:N, single, {OWN_RULES}"
_NAMED = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitRule:
    """A parsed --split: which rule, and its number."""

    kind: str
    """fold, by-image, by-session or leave-subject-out."""
    number: int = 0
    """Fold, or subject left out."""
    single: bool = False
    """The split file must have one fold only."""

    @classmethod
    def parse(cls, text: str) -> "SplitRule":
        """fold:N, single (the only fold of a one-fold file), by-image, by-session, leave-subject-out:S."""
        if text == "single":
            return cls(kind="fold", single=True)
        if text in ("by-image", "by-session"):
            return cls(kind=text)
        if match := re.fullmatch(r"(fold|leave-subject-out):(\d{1,10})", text):
            return cls(kind=match[1], number=int(match[2]))
        raise UsageError(f"--split {text!r} is not one of {RULES}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Division:
    """The segments divided."""

    splits: np.ndarray
    """Text of each segment: train, val, test or DROPPED."""
    rule: str
    """The rule in words, for dataset.json."""
    notes: tuple[str, ...] = ()
    """What was not used, one sentence each."""


def divide(
    *,
    split: str | None,
    column: Sequence[str] | None,
    image: Sequence[str] | np.ndarray,
    label: np.ndarray,
    subject: np.ndarray,
    session: Sequence[str] | np.ndarray | None = None,
    seed: int = 0,
) -> Division:
    """Divide the segments of a source that has no split file of its own; arrays and recordings call it.

    split: the text of --split, or None. column: the split of each segment as the table of labels says, or None. image:
    any name or number of each segment's image. label, subject: integers. session: names; empty, or None: unknown.

    --split decides where it is given, else the table's column, else the images are divided 80/10/10 %. A column that is
    not used is noted.
    """
    if split is None and column is not None:
        return Division(splits=np.array(column), rule="split column of the table")
    rule = SplitRule.parse(split or "by-image")
    if rule.kind == "fold":
        raise UsageError(f"--split {split} needs a split file, which this source does not have. Use {OWN_RULES}.")
    _, numbers = np.unique(np.asarray(image), return_inverse=True)
    splits, words = split_of_segments(
        rule, folds=None, image=numbers, label=label, subject=subject, session=session, seed=seed
    )
    unused = () if column is None else (f"the table's column 'split' is not used, because --split is {split}",)
    return Division(splits=splits, rule=words, notes=unused)


def split_of_segments(
    rule: SplitRule,
    *,
    folds: Sequence[Mapping[str, np.ndarray]] | None,
    image: np.ndarray,
    label: np.ndarray,
    subject: np.ndarray,
    session: Sequence[str] | np.ndarray | None = None,
    seed: int,
) -> tuple[np.ndarray, str]:
    """Assign a split to every segment. Returns a text array (train, val, test or DROPPED) and the rule in words.

    image, label, subject: int64 [num_segments]. `folds` is needed for fold rules only, `session` for by-session.
    """
    if rule.kind == "fold":
        return _split_of_fold(rule, folds, len(image))
    if rule.kind == "by-session":
        return _split_by_session(subject, session)
    splits = _splits_of_images(image, label, seed)[image]
    if rule.kind == "by-image":
        return splits, f"80/10/10 % by image within each class, seed {seed}"
    _check_subject(rule, subject)
    # Validation images are held out of training; the images that a by-image split would test on may be trained on,
    # because the test is on a subject that training never sees.
    splits = np.where(splits == "test", "train", splits)
    splits[subject == rule.number] = "test"
    return splits, f"subject {rule.number} is the test split; 10 % of the others' images are val, seed {seed}"


def divide_zero_shot(
    *,
    split: str | None,
    is_test_image: np.ndarray,
    label: np.ndarray,
    subject: np.ndarray,
    session: Sequence[str] | np.ndarray | None = None,
    num_val_classes: int,
    seed: int = 0,
) -> Division:
    """Divide the segments of a source whose test images are of classes that no training image has (THINGS).

    is_test_image: bool, whether the segment's image is one of the published test images. label: its class. In every
    rule, validation holds out `num_val_classes` whole training classes, drawn by `seed`, so it shares no class with
    training or test:

    - None: the test images of every subject are the test split.
    - leave-subject-out:S: subject S's test images are the test split; the others' training images are train and val.
      Subject S's training images and the others' test images are dropped.
    - by-session: of every subject, test images of the last session are test, validation classes of the session before
      it are val, training images of the earlier sessions are train. All other segments are dropped.

    `by-image` is no zero-shot split: a source that offers it calls `split_of_segments`.
    """
    classes = np.unique(label[~is_test_image])
    if shared := np.intersect1d(classes, label[is_test_image]).tolist():
        raise UserError(f"{len(shared)} classes have training and test images, so the split is not zero-shot.")
    if not 0 <= num_val_classes < len(classes):
        raise UserError(f"{num_val_classes} of {len(classes)} training classes for validation leave none to train on.")
    held_out = classes[np.random.default_rng(seed).permutation(len(classes))[:num_val_classes]]
    splits = np.where(is_test_image, "test", np.where(np.isin(label, held_out), "val", "train"))
    words = f"{num_val_classes} training classes are val, seed {seed}"
    if split is None:
        return Division(splits=splits, rule=f"published zero-shot test; {words}")
    rule = SplitRule.parse(split)
    if rule.kind == "leave-subject-out":
        _check_subject(rule, subject)
        kept = (subject == rule.number) == is_test_image
        words = f"zero-shot test images of subject {rule.number}; of the others' training images, {words}"
    elif rule.kind == "by-session":
        of_session, _ = _split_by_session(subject, session)
        kept = splits == of_session
        words = f"zero-shot test images of each subject's last session; of the sessions before it, {words}"
    else:
        raise UsageError(f"--split {split} does not keep the test images' classes out of training.")
    return Division(splits=np.where(kept, splits, DROPPED), rule=words)


def _split_of_fold(
    rule: SplitRule, folds: Sequence[Mapping[str, np.ndarray]] | None, num_segments: int
) -> tuple[np.ndarray, str]:
    if folds is None:
        raise UsageError("--split fold:N and single need the split file: give --splits FILE.")
    if rule.single and len(folds) != 1:
        raise UserError(f"--split single needs a split file of one fold; this one has {len(folds)}. Use fold:N.")
    if rule.number >= len(folds):
        raise UserError(f"--split fold:{rule.number}: the file has folds 0..{len(folds) - 1}.")
    splits = np.full(num_segments, DROPPED, dtype="U5")
    for split, positions in folds[rule.number].items():
        splits[positions] = split
    return splits, f"fold {rule.number} of {len(folds)} of the split file"


def _check_subject(rule: SplitRule, subject: np.ndarray) -> None:
    present = np.unique(subject).tolist()
    if rule.number not in present:
        raise UserError(f"--split leave-subject-out:{rule.number}: the data has subjects {present}.")
    if len(present) == 1:
        raise UserError(
            f"--split leave-subject-out:{rule.number}: there is no other subject to train on. Use by-image or "
            "by-session."
        )


def _split_by_session(subject: np.ndarray, session: Sequence[str] | np.ndarray | None) -> tuple[np.ndarray, str]:
    """Whole sessions: of every subject the last is test and the one before it val, in natural order of their names."""
    names = np.asarray([""] * len(subject) if session is None else session, dtype=str)
    if unknown := int((names == "").sum()):
        raise UserError(
            f"--split by-session: the session of {unknown} of {len(names)} segments is unknown. Give the table of "
            "labels a column 'session', or use by-image or leave-subject-out:S."
        )
    splits = np.full(len(subject), "train", dtype="U5")
    too_few = {}
    for person in np.unique(subject).tolist():
        own = subject == person
        sessions = sorted(set(names[own].tolist()), key=natural_key)
        if len(sessions) < 3:
            too_few[person] = sessions
            continue
        splits[own & (names == sessions[-1])] = "test"
        splits[own & (names == sessions[-2])] = "val"
    if too_few:
        shown = "; ".join(f"subject {person}: {', '.join(own)}" for person, own in list(too_few.items())[:_NAMED])
        raise UserError(
            f"--split by-session needs three sessions of every subject; {len(too_few)} of {len(np.unique(subject))} "
            f"subjects have fewer ({shown}{'; …' if len(too_few) > _NAMED else ''}). Leave them out, or use by-image "
            "or leave-subject-out:S."
        )
    return splits, "by session: each subject's last session is the test split, the session before it is val"


def _splits_of_images(image: np.ndarray, label: np.ndarray, seed: int) -> np.ndarray:
    """Split of each image number: images are shuffled within their class, then every tenth goes to val and to test."""
    numbers, first = np.unique(image, return_index=True)
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(numbers))
    by_class = shuffled[np.argsort(label[first][shuffled], kind="stable")]  # class after class, random within each
    # One place in ten goes to val and one to test: the totals are exact, each class is within one image of its share.
    place = np.arange(len(numbers))
    split_of_place = np.full(len(numbers), "train", dtype="U5")
    split_of_place[place % 10 == 7] = "val"
    split_of_place[place % 10 == 2] = "test"
    splits = np.full(int(image.max()) + 1, DROPPED, dtype="U5")
    splits[numbers[by_class]] = split_of_place
    return splits
