"""The continuous stretches of a recording: what lies on two sides of a pause is never filtered or cut together."""

import dataclasses
import math
from itertools import pairwise
from typing import Any

import numpy as np

from neuroimagen.data_shards.sources.recordings.files.edf_header import record_onsets
from neuroimagen.data_shards.sources.recordings.files.opening import Opened

_SKIP = "bad_acq_skip"
"""MNE's annotation of a stretch that was not recorded; the samples in it are zero."""
_BREAKS = ("boundary", "edge boundary", "bad boundary", _SKIP)


@dataclasses.dataclass(frozen=True)
class Piece:
    """Samples start … stop − 1 of a recording, counted from its first one."""

    start: int
    stop: int
    shift_s: float = 0.0
    """How much later by the clock the piece is than its samples say: the pauses before it, where they are known."""


def pieces_of(opened: Opened, notes: list[str]) -> list[Piece]:
    """The pieces in order. Times of a discontinuous EDF file's annotations are put right in `opened.data`.

    Appends a note if there is more than one. Raises UserError where times cannot be trusted.
    """
    raw = opened.data
    if opened.edf is not None and opened.edf.is_discontinuous:
        return _edf_pieces(opened, notes)
    breaks: set[int] = set()
    skips: list[tuple[int, int]] = []
    why: set[str] = set()
    for onset, stop, text in annotation_samples(raw):
        if text.lower() == _SKIP:
            skips.append((math.floor(onset), math.ceil(stop)))
            why.add(text)
        elif is_discontinuity(text):
            breaks.add(math.ceil(round(onset, 3)))
            why.add(text.rstrip("/"))
    edges = sorted({0, raw.n_times, *(b for b in breaks if 0 < b < raw.n_times), *(e for skip in skips for e in skip)})
    edges = [edge for edge in edges if 0 <= edge <= raw.n_times]
    pieces = [
        Piece(start, stop)
        for start, stop in pairwise(edges)
        if not any(begin <= start and stop <= end for begin, end in skips)
    ]
    if len(pieces) > 1:
        notes.append(
            f"{opened.file.name}: the recording was paused or joined at {len(pieces) - 1} places "
            f"({', '.join(sorted(why))}); it is filtered in {len(pieces)} pieces, and no segment crosses a pause"
        )
    return pieces


def is_discontinuity(text: str) -> bool:
    """Whether an annotation marks a pause, and is no event."""
    return text.startswith("New Segment") or text.lower() in _BREAKS


def annotation_samples(raw: Any) -> list[tuple[float, float, str]]:
    """Annotations as (first sample, sample after the last, text), in fractions of samples from the first one."""
    sfreq = float(raw.info["sfreq"])
    # MNE counts onsets from sample 0 of the acquisition; the recording's first sample is first_time later.
    onsets = (raw.annotations.onset - raw.first_time) * sfreq
    lengths = np.nan_to_num(raw.annotations.duration) * sfreq
    texts = map(str, raw.annotations.description)
    return list(zip(onsets.tolist(), (onsets + lengths).tolist(), texts, strict=True))


def _edf_pieces(opened: Opened, notes: list[str]) -> list[Piece]:
    """The runs of data records without a pause between them, by the records' own times."""
    import mne

    raw, header = opened.data, opened.edf
    assert header is not None
    onsets = record_onsets(header)
    per_record = round(header.record_s * opened.sfreq)
    gaps = np.flatnonzero(np.diff(onsets) > header.record_s + 0.5 / opened.sfreq) + 1
    edges = [0, *(int(record) * per_record for record in gaps), raw.n_times]
    shifts = [0.0, *(float(onsets[record] - record * header.record_s) for record in gaps)]
    pieces = [Piece(start, stop, shift) for start, stop, shift in zip(edges, edges[1:], shifts, strict=False)]
    if len(pieces) == 1:
        return pieces
    # MNE places an annotation as if there were no pauses, and drops those beyond the samples. The file has them all.
    found = mne.read_annotations(opened.file.path)
    kept, lost = [], 0
    for onset, duration, text in zip(found.onset, found.duration, found.description, strict=True):
        moved = [onset - piece.shift_s for piece in pieces if _holds(piece, onset, opened.sfreq)]
        if moved:
            kept.append((moved[0], duration, text))
        else:
            lost += 1
    times = [list(column) for column in zip(*kept, strict=True)] or [[], [], []]
    raw.set_annotations(mne.Annotations(*times, orig_time=None))
    notes.append(
        f"{opened.file.name}: a discontinuous file (EDF+D) with {len(gaps)} pauses; its annotations were placed by the "
        f"times of the data records, it is filtered in {len(pieces)} pieces, and no segment crosses a pause"
        + (f"; {lost} annotations lie in a pause and are left out" if lost else "")
    )
    return pieces


def _holds(piece: Piece, time_s: float, sfreq: float) -> bool:
    """Whether a time by the clock lies in the piece."""
    return piece.start <= round((time_s - piece.shift_s) * sfreq) < piece.stop
