"""Which of a subject's segments are calibration data, how many minutes they are, and which are tested.

Minutes of recording are segments times the interval from one stimulus to the next. Everything here is a pure function
of the index.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from neuroimagen.data_shards.common.arrays import Integers
from neuroimagen.data_shards.common.errors import UsageError, UserError
from neuroimagen.data_shards.dataset.dataset import Dataset, Index
from neuroimagen.data_shards.dataset.recording_time import recording_time
from neuroimagen.trainer.networks.randomness import derive_seed

Order = Literal["random", "time"]
"""random: each seed draws its own order of the segments. time: the order of recording, the same for every seed."""
LEAST_SEGMENTS = 2
"""Fewer have no covariance and no negatives."""


@dataclass(frozen=True, kw_only=True)
class SubjectSegments:
    """Rows of the index that belong to one subject."""

    calibration: Integers
    """Segments outside the test split whose stimulus no test segment of the data set shows, int64 [n]."""
    test: Integers
    """Segments of the test split, int64 [N]."""
    interval_s: float
    """Seconds of recording that a segment stands for."""
    interval_text: str
    """Where the interval comes from, in words."""
    num_shown_in_test: int
    """Segments outside the test split that were left out because their stimulus is in the test split."""

    @property
    def minutes(self) -> float:
        """Minutes of calibration data that there are."""
        return len(self.calibration) * self.interval_s / 60


@dataclass(frozen=True, kw_only=True)
class Amount:
    """An amount of calibration data."""

    minutes: float
    num_segments: int


def subject_segments(dataset: Dataset, subject: int) -> SubjectSegments:
    """The calibration and test segments of one subject.

    Raises UserError where the subject has none of either.
    """
    index = dataset.index
    own = np.flatnonzero(index.subject == subject)
    if not len(own):
        known = ", ".join(str(number) for number in np.unique(index.subject))
        raise UserError(f"{dataset.location} has no segments of subject {subject}; it has those of {known}.")
    is_test = index.split[own] == "test"
    test, others = own[is_test], own[~is_test]
    if not len(test):
        raise UserError(
            f"{dataset.location} has no test segments of subject {subject}, so nothing can be measured. Make the data "
            "set with a split that has some, for instance by image."
        )
    shown = np.unique(index.stimulus[dataset.rows("test")])
    is_shown = np.isin(index.stimulus[others], shown)
    calibration = others[~is_shown]
    if len(calibration) < LEAST_SEGMENTS:
        shared = f" ({int(is_shown.sum())} more show stimuli of the test split)" if is_shown.any() else ""
        raise UserError(
            f"{dataset.location} has {len(calibration)} segments of subject {subject} to calibrate with{shared}: "
            "calibration needs segments outside the test split whose stimuli are not in it. Make the data set with a "
            "split by image, and train the run without the subject (data.subjects)."
        )
    interval, text = presentation_interval(
        index, own, n_samples=dataset.metadata.n_samples, sfreq=dataset.metadata.sfreq
    )
    return SubjectSegments(
        calibration=calibration.astype(np.int64),
        test=test.astype(np.int64),
        interval_s=interval,
        interval_text=text,
        num_shown_in_test=int(is_shown.sum()),
    )


def presentation_interval(index: Index, rows: Integers, *, n_samples: int, sfreq: float) -> tuple[float, str]:
    """Seconds from one stimulus to the next in the recordings of `rows`, and in words where the number comes from.

    It is the median time from onset to onset within a recording, so that breaks do not count; the length of a segment
    where the onsets or recordings are unknown.
    """
    onset, recording = index.onset_s[rows], index.recording_code[rows]
    if len(rows) > 1 and not np.isnan(onset).any() and (recording >= 0).all():
        order = np.lexsort((onset, recording))
        steps = np.diff(onset[order])[np.diff(recording[order]) == 0]
        steps = steps[steps > 0]  # trials that two files hold begin at once
        if len(steps):
            interval = float(np.median(steps))
            return interval, f"{interval:.3g} s, the median time from one onset to the next"
    interval = n_samples / sfreq
    return interval, f"{interval:.3g} s, the length of a segment, because the data set does not have all onsets"


def calibration_order(dataset: Dataset, rows: Integers, *, order: Order, seed: int) -> Integers:
    """`rows` in the order in which calibration takes them: the first n are the calibration data of n segments.

    So what few minutes hold, more minutes hold as well. Raises UserError for `time` where the order of recording is
    unknown.
    """
    if order == "random":
        return rows[np.random.default_rng(derive_seed(seed, "calibration")).permutation(len(rows))]
    recorded = recording_time(dataset.index)
    if not recorded.is_known:
        raise UserError(
            f"{dataset.location} does not say when its segments were recorded (no blocks with orders, no onsets), so "
            "they cannot be taken in the order of time. Choose --order random."
        )
    return rows[np.lexsort((recorded.orders[rows], recorded.blocks[rows]))]


def amounts(minutes: Sequence[float], segments: SubjectSegments) -> tuple[list[Amount], list[str]]:
    """The amounts to calibrate with, ascending and distinct, and a sentence for each change that was made to the wish.

    More minutes than there are become all that there are. Raises UsageError for minutes that are no positive number or
    too few for LEAST_SEGMENTS segments.
    """
    available = len(segments.calibration)
    found: dict[int, Amount] = {}
    cut = []
    for wanted in sorted(set(minutes)):
        if not 0 < wanted < np.inf:
            raise UsageError(f"--minutes {wanted:g}: minutes of calibration are positive numbers.")
        number = int(wanted * 60 / segments.interval_s + 1e-9)
        if number < LEAST_SEGMENTS:
            raise UsageError(
                f"--minutes {wanted:g} are {number} segments (one is {segments.interval_s:.3g} s of recording); "
                f"calibration needs at least {LEAST_SEGMENTS}."
            )
        if number > available:
            cut.append(wanted)
            found[available] = Amount(minutes=segments.minutes, num_segments=available)
        else:
            found[number] = Amount(minutes=float(wanted), num_segments=number)
    notes = []
    if cut:
        named = " and ".join(f"{each:g}" for each in cut)
        notes.append(
            f"there are {segments.minutes:.3g} minutes of calibration data ({available} segments); {named} minutes "
            "are cut to that"
        )
    return [found[number] for number in sorted(found)], notes
