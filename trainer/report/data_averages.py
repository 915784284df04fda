"""Averages of a data set's EEG by class and subject, and spectra, in one pass over the segments.

Legend: N segments, C channels, T samples, K classes, S subjects, F frequencies.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neuroimagen.data_shards.common.arrays import Floats, Integers
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.progress import track
from neuroimagen.data_shards.dataset.dataset import Dataset

MAX_CLASSES = 12
NUM_SEGMENTS = 4
_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Averages:
    """Averages of the segments of one split, and a few single segments."""

    dataset: Dataset
    split: str
    num_segments: int
    classes: Integers
    """Labels of the classes that are shown, [K]."""
    subjects: Integers
    class_mean: Floats
    """[K, C, T]."""
    class_error: Floats
    """Standard errors of the class means over segments, [K, C, T]."""
    class_counts: Integers
    subject_mean: Floats
    """[S, C, T]."""
    subject_counts: Integers
    subject_power: Floats
    """Power spectral density, mean over segments, [S, C, F]."""
    frequencies: Floats
    examples: Floats
    """The first segments, [n, C, T]."""
    example_texts: tuple[str, ...]

    @property
    def times_ms(self) -> Floats:
        """Time after onset of each sample, [T]."""
        metadata = self.dataset.metadata
        start = metadata.preprocessing.get("window", [0])[0]
        return 1000 * (start + np.arange(metadata.n_samples)) / metadata.sfreq

    @property
    def evoked(self) -> Floats:
        """Mean over all segments, [C, T]."""
        return np.average(self.subject_mean, axis=0, weights=self.subject_counts)


def average(
    dataset: Dataset, *, split: str, subjects: Sequence[int] | None = None, class_names: Sequence[str] | None = None
) -> Averages:
    """Average the segments of a split in one pass, in memory that does not grow with their number.

    Raises UserError if there are no such segments, or no class of a given name.
    """
    from scipy.signal import periodogram

    rows = dataset.rows(split, subjects)
    if not len(rows):
        raise UserError(
            f"the data set has no {split} segments of subjects {list(subjects or dataset.metadata.subjects)}."
        )
    metadata, index = dataset.metadata, dataset.index
    classes = _chosen_classes(dataset, rows, class_names)
    present = np.unique(index.subject[rows])
    shape = (metadata.n_channels, metadata.n_samples)
    sums, squares = np.zeros((len(classes), *shape)), np.zeros((len(classes), *shape))
    subject_sums = np.zeros((len(present), *shape))
    num_frequencies = metadata.n_samples // 2 + 1
    power = np.zeros((len(present), metadata.n_channels, num_frequencies))
    frequencies = np.fft.rfftfreq(metadata.n_samples, 1 / metadata.sfreq)
    starts = range(0, len(rows), _BATCH)
    for start in track(starts, total=len(starts), desc="reading EEG", unit="batch"):
        chosen = rows[start : start + _BATCH]
        eeg = np.stack([dataset.eeg(int(row)) for row in chosen]).astype(np.float64)
        # With a window, because the step between the ends of a segment would leak into every frequency.
        density = periodogram(eeg, metadata.sfreq, window="hann", detrend="linear")[1]
        for number, row in enumerate(chosen):
            subject = int(np.searchsorted(present, index.subject[row]))
            subject_sums[subject] += eeg[number]
            power[subject] += density[number]
            place = np.flatnonzero(classes == index.label[row])
            if len(place):
                sums[place[0]] += eeg[number]
                squares[place[0]] += eeg[number] ** 2
    counts = np.array([(index.label[rows] == label).sum() for label in classes])
    subject_counts = np.array([(index.subject[rows] == subject).sum() for subject in present])
    per_class, per_subject = (np.maximum(c, 1)[:, None, None] for c in (counts, subject_counts))
    mean = sums / per_class
    variance = np.maximum(squares / per_class - mean**2, 0) * per_class / np.maximum(per_class - 1, 1)
    first = rows[:NUM_SEGMENTS]
    names = [item.name for item in metadata.classes]
    return Averages(
        dataset=dataset,
        split=split,
        num_segments=len(rows),
        classes=classes,
        subjects=present,
        class_mean=mean,
        class_error=np.sqrt(variance / per_class),
        class_counts=counts,
        subject_mean=subject_sums / per_subject,
        subject_counts=subject_counts,
        subject_power=power / per_subject,
        frequencies=frequencies,
        examples=np.stack([dataset.eeg(int(row)) for row in first]),
        example_texts=tuple(f"{names[index.label[row]]}, subject {index.subject[row]}" for row in first),
    )


def _chosen_classes(dataset: Dataset, rows: Integers, class_names: Sequence[str] | None) -> Integers:
    """Labels of the named classes; without names the commonest, in the order of their labels."""
    names = [item.name for item in dataset.metadata.classes]
    if class_names is not None:
        unknown = [name for name in class_names if name not in names]
        if unknown:
            raise UserError(f"class {unknown[0]!r} is not in the data set. Choose among {', '.join(names[:20])}.")
        return np.array([names.index(name) for name in class_names])
    counts = np.bincount(dataset.index.label[rows], minlength=len(names))
    return np.sort(np.argsort(-counts, kind="stable")[:MAX_CLASSES])
