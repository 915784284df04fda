"""The one function that turns a source into a data set."""

import dataclasses
import importlib.metadata
import platform
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path

from neuroimagen.data_shards.common.progress import track
from neuroimagen.data_shards.common.reading import content_of
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.sources.base import Source
from neuroimagen.data_shards.writing.preprocessing import FittedPreprocessing, Preprocessing
from neuroimagen.data_shards.writing.writer import DEFAULT_SHARD_BYTES, DatasetWriter


def ingest(
    source: Source,
    out: Path,
    *,
    preprocessing: Preprocessing | None = None,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    workers: int | None = None,
) -> Dataset:
    """Write a source's recordings as a data set in folder `out` and open it.

    Preprocessing is fitted on the training split only, and applied by `workers` threads (default: one per core, at most
    8). With the same versions and kind of processor the same source and options give the same bytes, whatever `workers`
    is, and also when the job is killed and started again: it keeps the shards that were finished.

    Raises UserError for files that are damaged or not in the source's form.
    """
    with recordings_of(type(source).__name__):
        return _ingest(source, out, preprocessing or Preprocessing(), shard_bytes=shard_bytes, workers=workers)


def recordings_of(name: str) -> AbstractContextManager[None]:
    """Read the files of a source. Whatever they make a library or ours raise is a UserError, in one line."""
    remedy = "A file is damaged, or is not in the form that this source reads; --debug shows where."
    return content_of(f"read the recordings ({name})", remedy=remedy)


def _ingest(source: Source, out: Path, options: Preprocessing, *, shard_bytes: int, workers: int | None) -> Dataset:
    metadata = source.metadata()
    training = (record.eeg for record in track(source.segments("train"), desc="fitting", unit="segment"))
    fitted = FittedPreprocessing.fit(options, training)
    metadata = dataclasses.replace(
        metadata,
        preprocessing={**metadata.preprocessing, **fitted.summary()},
        provenance={**metadata.provenance, "versions": _versions()},
    )
    with DatasetWriter(out, metadata, shard_bytes=shard_bytes, transform=fitted, workers=workers) as writer:
        for stimulus in track(islice(source.stimuli(), writer.num_kept_stimuli, None), desc="stimuli"):
            writer.add_stimulus(stimulus)
        kept = writer.resume_position
        rest = islice(source.segments(), kept, None)
        for segment in track(rest, total=source.num_segments() - kept, desc="segments"):
            writer.add_segment(segment)
    return Dataset.open(out)


def _versions() -> dict[str, str]:
    names = ("neuroimagen", "numpy", "pyarrow")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in names}}
