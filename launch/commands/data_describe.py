"""A data set in words, for people."""

from collections.abc import Sequence
from typing import Any


def describe(dataset: Any) -> Sequence[str]:
    """Lines about a data set, for people."""
    metadata = dataset.metadata
    band = "not stated" if metadata.band_hz is None else f"{metadata.band_hz[0]:g}–{metadata.band_hz[1]:g} Hz"
    counts = ", ".join(f"{part} {metadata.split_counts.get(part, 0):,}" for part in ("train", "val", "test"))
    detailed = sum(caption is not None for caption in dataset.stimuli.detailed_captions)
    steps = [name for name in ("detrend", "standardise") if metadata.preprocessing.get(name)]
    if metadata.preprocessing.get("clamp"):
        steps.append(f"clamp ±{metadata.preprocessing['clamp']:g}")
    size = sum(metadata.segment_shards) + sum(metadata.stimulus_shards)
    return [
        f"{metadata.name}: {metadata.num_segments:,} segments of {metadata.n_channels} channels × {metadata.n_samples} "
        f"samples at {metadata.sfreq:g} Hz, band {band}",
        f"  parts         {counts} ({metadata.split_rule})",
        f"  subjects      {', '.join(map(str, metadata.subjects))}",
        f"  classes       {metadata.num_classes}: {', '.join(info.name for info in metadata.classes)}",
        f"  stimuli       {metadata.num_stimuli:,}, {detailed:,} of them with a detailed caption",
        f"  preprocessing {', '.join(steps) or 'none beyond the file’s own'}",
        f"  storage       float16, round-trip error at most {metadata.storage.get('round_trip_rms_error', 0):.1e} of a "
        f"segment's RMS; {len(metadata.segment_shards)} + {len(metadata.stimulus_shards)} shards, {size / 1e6:,.1f} MB",
        f"  digest        {dataset.digest}",
    ]
