"""What MNE does not tell of an EDF or BDF file: the rate and unit of each signal, and when each data record began.

MNE reads a discontinuous file (EDF+D, BDF+D) as if it had no pauses, and brings all signals to the highest rate. The
header's layout is that of Kemp et al. 1992; record onsets are those of EDF+ (Kemp and Olivan 2003).
"""

import dataclasses
import re
from pathlib import Path

import numpy as np

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.reading import open_file

ENDINGS = (".edf", ".bdf", ".rec")
_FIXED_BYTES = 256
_ANNOTATION_LABELS = ("EDF Annotations", "BDF Annotations")
# Header fields of a signal that stand before its number of samples: label, transducer, unit, 4 ranges, prefilter.
_BYTES_BEFORE_NUM_SAMPLES = 16 + 80 + 8 + 4 * 8 + 80


@dataclasses.dataclass(frozen=True, kw_only=True)
class EdfHeader:
    """The part of a header that tells how the data lie in the file."""

    path: Path
    is_discontinuous: bool
    record_s: float
    """Duration of a data record, seconds."""
    labels: tuple[str, ...]
    units: tuple[str, ...]
    samples_per_record: tuple[int, ...]
    header_bytes: int
    sample_bytes: int
    """2 in EDF, 3 in BDF."""

    @property
    def signals(self) -> list[int]:
        """Positions of the signals that are no annotations, as MNE lists them."""
        return [place for place, label in enumerate(self.labels) if label not in _ANNOTATION_LABELS]

    def rates_hz(self) -> list[float]:
        """Sampling rate of each of `signals`."""
        return [self.samples_per_record[place] / self.record_s if self.record_s else 0.0 for place in self.signals]


def read_edf_header(path: Path) -> EdfHeader:
    """Read the header of an EDF or BDF file. Raises UserError if its numbers are none."""
    with open_file(path) as file:
        fixed = file.read(_FIXED_BYTES)
        try:
            num_signals = int(fixed[252:256])
            record_s, header_bytes = float(fixed[244:252]), int(fixed[184:192])
            each = file.read(256 * num_signals)

            def column(start: int, width: int) -> list[str]:
                places = range(start * num_signals, (start + width) * num_signals, width)
                return [each[place : place + width].decode("latin-1").strip() for place in places]

            return EdfHeader(
                path=path,
                is_discontinuous=fixed[192:236].decode("latin-1").strip().upper().startswith(("EDF+D", "BDF+D")),
                record_s=record_s,
                labels=tuple(column(0, 16)),
                units=tuple(column(96, 8)),
                samples_per_record=tuple(int(text) for text in column(_BYTES_BEFORE_NUM_SAMPLES, 8)),
                header_bytes=header_bytes,
                sample_bytes=3 if fixed[0] == 0xFF else 2,
            )
        except ValueError as error:
            raise UserError(f"{path} has no readable EDF or BDF header: {error}.") from None


def record_onsets(header: EdfHeader) -> np.ndarray:
    """When each data record began, float64 seconds after the first, from the records' time-keeping annotations.

    Raises UserError if a record has none or the times do not ascend: then no event can be placed.
    """
    places = [place for place, label in enumerate(header.labels) if label in _ANNOTATION_LABELS]
    if not places:
        raise UserError(f"{header.path} is discontinuous (EDF+D) and has no annotation signal that says its pauses.")
    record_bytes = header.sample_bytes * sum(header.samples_per_record)
    start = header.sample_bytes * sum(header.samples_per_record[: places[0]])
    length = header.sample_bytes * header.samples_per_record[places[0]]
    num_records = (header.path.stat().st_size - header.header_bytes) // record_bytes
    content = np.memmap(header.path, np.uint8, "r", header.header_bytes, (num_records, record_bytes))
    onsets = np.empty(num_records)
    for record in range(num_records):
        found = re.match(rb"([+-]\d+(?:\.\d*)?)\x14\x14", content[record, start : start + length].tobytes())
        if found is None:
            raise UserError(
                f"{header.path} is discontinuous (EDF+D), and its data record {record} does not say when it began: its "
                "events cannot be placed. Export it as a continuous file (EDF+C), one file for each stretch."
            )
        onsets[record] = float(found[1])
    onsets -= onsets[0]
    if (early := np.flatnonzero(np.diff(onsets) < header.record_s * 0.999)).size:
        raise UserError(
            f"{header.path} is discontinuous (EDF+D), and its data record {early[0] + 1} begins before record "
            f"{early[0]} ends: its events cannot be placed. Export it as a continuous file (EDF+C)."
        )
    return onsets
