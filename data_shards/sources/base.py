"""What a source of recordings implements, and the one function that turns a source into a data set.

A source says what it holds (`metadata`), and yields its pictures and its segments. Everything else — preprocessing,
float16, shards, index, provenance — is the same for all. docs/new-dataset.md has a worked example.
"""

import dataclasses
import importlib.metadata
import platform
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Protocol

from neuroimagen.data_shards.common.progress import track
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.format.schema import DatasetMetadata, SegmentRecord, StimulusRecord
from neuroimagen.data_shards.writing.preprocessing import FittedPreprocessing, Preprocessing
from neuroimagen.data_shards.writing.writer import DEFAULT_SHARD_BYTES, DatasetWriter


class Source(Protocol):
    """Recordings that can be turned into a data set."""

    def metadata(self) -> DatasetMetadata:
        """Channels, samples, rate, classes, split rule, provenance. The writer fills in the counts."""
        ...

    def stimuli(self) -> Iterator[StimulusRecord]:
        """Every picture that a segment refers to."""
        ...

    def segments(self, split: str | None = None) -> Iterator[SegmentRecord]:
        """Every segment, or those of one part; always in the same order, as often as asked."""
        ...

    def num_segments(self) -> int:
        """How many segments `segments()` yields; for the progress bar."""
        ...


def ingest(
    source: Source,
    out: Path,
    *,
    preprocessing: Preprocessing | None = None,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    workers: int | None = None,
) -> Dataset:
    """Write a source's recordings as a data set in folder `out` and open it.

    Preprocessing is fitted on the training part only, and applied by `workers` threads (default: one per core). With
    the same versions and kind of processor the same source and options give the same bytes, whatever `workers` is, and
    also when the job is killed and started again: it keeps what was finished.
    """
    options = preprocessing or Preprocessing()
    metadata = source.metadata()
    fitted = FittedPreprocessing.fit(options, (record.eeg for record in source.segments("train")))
    metadata = dataclasses.replace(
        metadata,
        preprocessing={**metadata.preprocessing, **fitted.summary()},
        provenance={**metadata.provenance, "versions": _versions()},
    )
    with DatasetWriter(out, metadata, shard_bytes=shard_bytes, transform=fitted, workers=workers) as writer:
        for stimulus in track(islice(source.stimuli(), writer.num_kept_stimuli, None), desc="pictures"):
            writer.add_stimulus(stimulus)
        kept = writer.resume_position
        rest = islice(source.segments(), kept, None)
        for segment in track(rest, total=source.num_segments() - kept, desc="segments"):
            writer.add_segment(segment)
    return Dataset.open(out)


def _versions() -> dict[str, str]:
    names = ("neuroimagen", "numpy", "pyarrow")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in names}}
