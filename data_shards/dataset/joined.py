"""Joining: several data sets become one to train on, of which the first decides the format.

The joined data set has the training splits of all, and the validation and test splits of the first alone. The others
may differ from the first where that can be undone exactly: in the order of named channels, in additional channels and
samples, in the unit of the amplitude. They cannot join with another sampling rate or with a channel missing.

Shapes: C channels, T samples, of the first data set; segments are [C, T] whichever data set they come from.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset, Index
from neuroimagen.data_shards.format.schema import DatasetMetadata

SUBJECT_STRIDE = 1_000_000
"""Subject s of the k-th further data set (from 1) gets number k · SUBJECT_STRIDE + s, because it is another person than
subject s of the first."""
_AMPLITUDE_SEGMENTS = 256
"""Training segments, at most, that a data set's amplitude is measured on."""


class JoinedDataset(Dataset):
    """The segments of several data sets, one data set after the other; row numbers continue from one to the next.

    The training split is that of all; validation and test splits are the first's alone. Metadata and stimuli are the
    first's, so only the EEG of the others can be used. One factor each scales their amplitudes to the first's.
    """

    def __init__(self, datasets: Sequence[Dataset]) -> None:
        """Raises UserError that says why when a data set cannot join the first."""
        first, *others = datasets
        super().__init__(first.folder, first.metadata, first.index, first.stimuli)
        if len({dataset.digest for dataset in datasets}) < len(datasets):
            raise UserError(f"a data set is named twice among {', '.join(dataset.location for dataset in datasets)}.")
        self.datasets = tuple(datasets)
        self._layouts = [_Layout(first, dataset) for dataset in datasets]
        self._starts = np.cumsum([0, *(len(dataset) for dataset in datasets)])
        amplitude = typical_amplitude(first)
        columns = [_columns(first.index)]
        for number, other in enumerate(others, start=1):
            if max(other.metadata.subjects) >= SUBJECT_STRIDE:
                raise UserError(f"{other.location}: subject numbers must be below {SUBJECT_STRIDE} to join another's.")
            columns.append(_columns(other.index))
            before_it = [before.index for before in datasets[:number]]
            columns[-1] |= {
                **_moved_codes(other.index, "session_code", sum(len(index.sessions) for index in before_it)),
                **_moved_codes(other.index, "recording_code", sum(len(index.recordings) for index in before_it)),
                "scale": other.index.scale * np.float32(amplitude / typical_amplitude(other)),
                "subject": other.index.subject + number * SUBJECT_STRIDE,
                "label": other.index.label + sum(before.metadata.num_classes for before in datasets[:number]),
                "stimulus": other.index.stimulus + sum(before.metadata.num_stimuli for before in datasets[:number]),
            }
        self.index = Index(
            **{name: np.concatenate([column[name] for column in columns]) for name in columns[0]},
            sessions=tuple(name for dataset in datasets for name in dataset.index.sessions),
            recordings=tuple(name for dataset in datasets for name in dataset.index.recordings),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return JoinedDataset, (self.datasets,)

    @property
    def sources(self) -> tuple[Dataset, ...]:
        return self.datasets

    def locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        source = np.searchsorted(self._starts, rows, side="right") - 1
        return source, rows - self._starts[source]

    @property
    def location(self) -> str:
        return " + ".join(dataset.location for dataset in self.datasets)

    @cached_property
    def digest(self) -> str:
        """Of all data sets, in their order."""
        return "+".join(dataset.digest for dataset in self.datasets)

    @property
    def subjects(self) -> tuple[int, ...]:
        """Numbers of the further data sets' subjects, as in `index.subject`."""
        return tuple(
            subject + number * SUBJECT_STRIDE
            for number, other in enumerate(self.datasets[1:], start=1)
            for subject in other.metadata.subjects
        )

    def rows(self, split: str, subjects: Iterable[int] | None = None) -> np.ndarray:
        """Rows of the first data set's split and subjects; for `train` also all training rows of the others."""
        rows = [self.datasets[0].rows(split, subjects)]
        if split == "train":
            others = zip(self.datasets[1:], self._starts[1:-1], strict=True)
            rows += [other.rows("train") + start for other, start in others]
        return np.concatenate(rows)

    def eeg_contents(self, rows: np.ndarray) -> Iterator[memoryview]:
        """float16 data [C, T] in C order; those of further data sets with channels reordered and the end cut off."""
        for source, own in zip(*(place.tolist() for place in self.locate(rows)), strict=True):
            yield self._layouts[source].arrange(self.datasets[source].eeg_bytes(own))


def _columns(index: Index) -> dict[str, np.ndarray]:
    """The columns of an index that have one entry per segment."""
    names = [field.name for field in dataclasses.fields(Index)]
    return {name: getattr(index, name) for name in names if name not in ("sessions", "recordings")}


def _moved_codes(index: Index, column: str, shift: int) -> dict[str, np.ndarray]:
    """Codes of names that are listed after `shift` others; −1 stays."""
    codes = getattr(index, column)
    return {column: np.where(codes >= 0, codes + np.int32(shift), codes)}


class _Layout:
    """Brings the segments of a data set into the shape [C, T] of the first."""

    def __init__(self, first: Dataset, other: Dataset) -> None:
        metadata = other.metadata
        self._order = channel_order(first.metadata, metadata, where=other.location)
        self._stored = (metadata.n_channels, metadata.n_samples)
        self._n_samples = first.metadata.n_samples
        self._as_stored = self._stored == (first.metadata.n_channels, self._n_samples) and bool(
            (np.diff(self._order) == 1).all() and self._order[0] == 0
        )

    def arrange(self, content: memoryview) -> memoryview:
        if self._as_stored:
            return content
        stored = np.frombuffer(content, dtype="<f2").reshape(self._stored)
        return np.ascontiguousarray(stored[self._order, : self._n_samples]).data.cast("B")


def channel_order(first: DatasetMetadata, other: DatasetMetadata, *, where: str) -> np.ndarray:
    """int64 [C]: for each channel of `first`, its place among `other`'s. Raises UserError if `other` cannot join.

    The sampling rates must be equal. Segments of `other` must be at least as long; their beginning is used. Every
    channel of `first` is found by its name, whatever the case of the letters; where neither data set names its
    channels, both must have the same number, and the order is taken to be the same.
    """
    if not np.isclose(first.sfreq, other.sfreq, rtol=1e-6, atol=0):
        raise UserError(
            f"{where} was sampled at {other.sfreq:g} Hz, the first data set at {first.sfreq:g} Hz. Ingest it again at "
            "that rate."
        )
    if other.n_samples < first.n_samples:
        raise UserError(
            f"{where} has segments of {other.n_samples} samples, the first data set of {first.n_samples}. Ingest it "
            "again with a longer window, or the first with a shorter one."
        )
    if first.channel_names is None and other.channel_names is None:
        if first.n_channels != other.n_channels:
            raise UserError(
                f"{where} has {other.n_channels} channels, the first data set {first.n_channels}, and neither names "
                "them. Ingest both with channel names."
            )
        return np.arange(first.n_channels)
    if first.channel_names is None or other.channel_names is None:
        unnamed = where if other.channel_names is None else "the first data set"
        raise UserError(f"{unnamed} does not name its channels, so they cannot be matched. Ingest it with their names.")
    places = {name.casefold(): place for place, name in enumerate(other.channel_names)}
    if missing := [name for name in first.channel_names if name.casefold() not in places]:
        raise UserError(
            f"{where} lacks {len(missing)} of the first data set's {first.n_channels} channels: "
            f"{', '.join(missing[:8])}. Leave it out, or ingest the first with the channels that both have."
        )
    return np.array([places[name.casefold()] for name in first.channel_names])


def typical_amplitude(dataset: Dataset) -> float:
    """The median channel's standard deviation over training segments, in the data set's units.

    Raises UserError when more than half of the channels are flat.
    """
    rows = dataset.rows("train")
    if len(rows) == 0:
        raise UserError(f"{dataset.location} has no training segments to join with.")
    chosen = rows[:: -(-len(rows) // _AMPLITUDE_SEGMENTS)]
    total = np.zeros((2, dataset.metadata.n_channels))
    for row in chosen.tolist():
        eeg = dataset.eeg(row).astype(np.float64)
        total += np.stack([eeg.mean(axis=1), np.square(eeg).mean(axis=1)])
    mean, square = total / len(chosen)
    amplitude = float(np.median(np.sqrt(np.maximum(square - mean**2, 0))))
    if amplitude == 0:
        raise UserError(f"{dataset.location}: most channels are flat. Run `neuroimagen data verify`.")
    return amplitude
