"""Several data sets as one to train on: their training parts beside that of the first.

What may differ is what can be undone exactly: the order and surplus of named channels, the length beyond the first's,
the unit of the amplitude. A sampling rate cannot, and neither can a missing channel.

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
"""Subject s of the k-th further data set (from 1) is number k · SUBJECT_STRIDE + s: another person than the first's s.
"""
_AMPLITUDE_SEGMENTS = 256
"""Training segments, at most, that a data set's amplitude is measured on."""


class JoinedDataset(Dataset):
    """The rows of several data sets, one after the other; row numbers count on from one to the next.

    The training part is that of all; validation and test parts are the first's alone. Metadata and stimuli are the
    first's: only the EEG of the others is of use. Their amplitudes are brought to the first's by one factor each.
    """

    def __init__(self, parts: Sequence[Dataset]) -> None:
        """Raises UserError that says why when a data set cannot join the first."""
        first, *others = parts
        super().__init__(first.folder, first.metadata, first.index, first.stimuli)
        if len({part.digest for part in parts}) < len(parts):
            raise UserError(f"a data set is named twice among {', '.join(part.location for part in parts)}.")
        self.parts = tuple(parts)
        self._layouts = [_Layout(first, part) for part in parts]
        self._starts = np.cumsum([0, *(len(part) for part in parts)])
        amplitude = typical_amplitude(first)
        columns = [{field.name: getattr(first.index, field.name) for field in dataclasses.fields(Index)}]
        for number, part in enumerate(others, start=1):
            if max(part.metadata.subjects) >= SUBJECT_STRIDE:
                raise UserError(f"{part.location}: subject numbers must be below {SUBJECT_STRIDE} to join another's.")
            columns.append({field.name: getattr(part.index, field.name) for field in dataclasses.fields(Index)})
            columns[-1] |= {
                "scale": part.index.scale * np.float32(amplitude / typical_amplitude(part)),
                "subject": part.index.subject + number * SUBJECT_STRIDE,
                "label": part.index.label + sum(before.metadata.num_classes for before in parts[:number]),
                "stimulus": part.index.stimulus + sum(before.metadata.num_stimuli for before in parts[:number]),
            }
        self.index = Index(**{name: np.concatenate([column[name] for column in columns]) for name in columns[0]})

    def __reduce__(self) -> tuple[Any, ...]:
        return JoinedDataset, (self.parts,)

    @property
    def sources(self) -> tuple[Dataset, ...]:
        return self.parts

    def locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        part = np.searchsorted(self._starts, rows, side="right") - 1
        return part, rows - self._starts[part]

    @property
    def location(self) -> str:
        return " + ".join(part.location for part in self.parts)

    @cached_property
    def digest(self) -> str:
        """Of all parts, in their order."""
        return "+".join(part.digest for part in self.parts)

    @property
    def subjects(self) -> tuple[int, ...]:
        """Of the further data sets, as `index.subject` has them."""
        return tuple(
            subject + number * SUBJECT_STRIDE
            for number, part in enumerate(self.parts[1:], start=1)
            for subject in part.metadata.subjects
        )

    def rows(self, split: str, subjects: Iterable[int] | None = None) -> np.ndarray:
        """As of the first data set, `subjects` being its own; of `train` also all that the others have."""
        rows = [self.parts[0].rows(split, subjects)]
        if split == "train":
            rows += [part.rows("train") + start for part, start in zip(self.parts[1:], self._starts[1:-1], strict=True)]
        return np.concatenate(rows)

    def eeg_contents(self, rows: np.ndarray) -> Iterator[memoryview]:
        """float16 data [C, T] in C order; of a further data set its channels put in order, its end cut off."""
        for part, own in zip(*(place.tolist() for place in self.locate(rows)), strict=True):
            yield self._layouts[part].arrange(self.parts[part].eeg_bytes(own))


class _Layout:
    """How the segments of a data set become [C, T] of the first."""

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
    """int64 [C]: which channel of `other` is each of `first`'s. Raises UserError if `other` cannot join it.

    The rule: the same sampling rate; segments at least as long, of which the beginning is used; every channel of the
    first, found by its name whatever the letters' case. Where neither names its channels: as many, in the same order.
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
    """The median channel's standard deviation over training segments, in the data set's units; a pure function of it.

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
