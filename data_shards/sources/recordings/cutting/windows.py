"""Which samples belong to a segment, and which segments can be cut. No sample is read."""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from neuroimagen.data_shards.sources.recordings.files.pieces import Piece, annotation_samples, is_discontinuity
from neuroimagen.data_shards.sources.recordings.options import CutOptions
from neuroimagen.data_shards.sources.recordings.tables.event_names import event_key


@dataclasses.dataclass(frozen=True)
class Window:
    """Samples first … last − 1 after the event are stored; the mean of base_first … base_last − 1 is subtracted.

    Each edge is rounded by itself, as MNE does, so it does not depend on the others.
    """

    first: int
    last: int
    base_first: int
    base_last: int
    """Equal to base_first where there is no baseline."""
    sfreq: float

    @classmethod
    def of(cls, options: CutOptions, sfreq: float) -> "Window":
        first, last = round(options.tmin * sfreq), round(options.tmax * sfreq)
        if options.baseline is None:
            return cls(first, last, first, first, sfreq)
        # MNE's baseline has both of its ends.
        return cls(first, last, round(options.baseline[0] * sfreq), round(options.baseline[1] * sfreq) + 1, sfreq)

    @property
    def num_samples(self) -> int:
        return self.last - self.first

    @property
    def begin(self) -> int:
        """First sample that is needed, after the event."""
        return min(self.first, self.base_first) if self.base_last > self.base_first else self.first

    @property
    def end(self) -> int:
        """Sample after the last one that is needed, after the event."""
        return max(self.last, self.base_last) if self.base_last > self.base_first else self.last


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cuts:
    """Segments of one recording that can be cut, in the order of time."""

    place: np.ndarray
    """int64: which of the given events each is."""
    piece: np.ndarray
    """int64: position in the list of pieces."""
    event: np.ndarray
    """int64: sample of the event within its piece, at the new sampling rate."""
    onset_s: np.ndarray
    """float64: of the first stored sample, seconds after the recording's first."""
    dropped: dict[str, int]
    """Why segments were dropped → how many."""


def plan_cuts(
    sample: np.ndarray,
    pieces: Sequence[Piece],
    raw: Any,
    options: CutOptions,
    *,
    events: Collection[str],
) -> Cuts:
    """Decide which segments of a raw recording can be cut.

    sample: int64 [events], from the recording's first sample. `events`: keys of the events themselves: an annotation of
    that name marks nothing as bad, even if it begins with "bad" or "edge", as MNE's marks do.
    """
    sfreq = float(raw.info["sfreq"])
    new = options.resample or sfreq
    window = Window.of(options, new)
    order = np.argsort(sample, kind="stable")
    at = sample[order]
    reason = np.full(len(at), "", dtype=object)

    starts = np.array([piece.start for piece in pieces])
    piece = np.clip(np.searchsorted(starts, at, side="right") - 1, 0, None)
    stops = np.array([each.stop for each in pieces])[piece]
    inside = (at >= starts[piece]) & (at < stops)
    event = np.rint((at - starts[piece]) * (new / sfreq)).astype(np.int64)
    lengths = np.maximum(np.rint((stops - starts[piece]) * (new / sfreq)).astype(np.int64), 1)
    early, late = event + window.begin < 0, event + window.end > lengths
    is_first, is_last = piece == 0, piece == len(pieces) - 1
    reason[early | late] = "they cross a pause"
    reason[(early & is_first & ~late) | (late & is_last & ~early)] = "they run over the recording's ends"
    reason[~inside] = "their events lie in a pause"
    reason[(at < 0) | (at >= raw.n_times)] = "their events lie outside the recorded samples"

    span = np.stack([at + window.begin * sfreq / new, at + window.end * sfreq / new])
    for start, stop, text in _bad_marks(raw, events):
        hit = (span[0] < stop) & (span[1] > start) & (reason == "")
        reason[hit] = f"they lie in a stretch that is marked {text!r}"
    # The same sample twice: the first event of the table's order is taken, as MNE does.
    kept_before = np.flatnonzero(reason == "")
    again = kept_before[1:][np.diff(at[kept_before]) == 0]
    reason[again] = "they begin at the same sample as another"

    kept = reason == ""
    shift = np.array([each.shift_s for each in pieces])[piece]
    onset = starts[piece] / sfreq + (event + window.first) / new + shift
    return Cuts(
        place=order[kept],
        piece=piece[kept],
        event=event[kept],
        onset_s=onset[kept],
        dropped={text: int((reason == text).sum()) for text in sorted(set(reason.tolist()) - {""})},
    )


def plan_epochs(number: np.ndarray, epochs: Any, options: CutOptions) -> Cuts:
    """The epochs of a file that are stored: all that were asked for; −1 stands for one that the file has not."""
    sfreq = float(options.resample or epochs.info["sfreq"])
    kept = np.flatnonzero(number >= 0)
    event = number[kept]
    begin = epochs.events[event, 0] / float(np.ravel(epochs._raw_sfreq)[0])  # an array in files, a number in memory
    onset = begin + Window.of(options, sfreq).first / sfreq
    if (np.diff(begin) <= 0).any():  # of several recordings put together
        onset = np.full(len(kept), np.nan)
    return Cuts(place=kept, piece=np.zeros(len(kept), dtype=np.int64), event=event, onset_s=onset, dropped={})


def _bad_marks(raw: Any, events: Collection[str]) -> list[tuple[float, float, str]]:
    """MNE's marks of bad data: annotations of all channels that begin with "bad" or "edge", except events."""
    marks = []
    of_channels = raw.annotations.ch_names
    for (start, stop, text), channels in zip(annotation_samples(raw), of_channels, strict=True):
        is_mark = text.lower().startswith(("bad", "edge")) and not is_discontinuity(text)
        if is_mark and event_key(text) not in events and len(channels) == 0:
            marks.append((start, stop, text))
    return marks
