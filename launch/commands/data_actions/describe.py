"""A data set described in text: what `ingest`, `repack` and `info` print."""

from collections.abc import Mapping, Sequence
from typing import Any

from neuroimagen.data_shards.format.schema import SPLITS


def describe(dataset: Any) -> Sequence[str]:
    """Lines that say what a data set holds and how it was made."""
    metadata = dataset.metadata
    band = "not stated" if metadata.band_hz is None else f"{metadata.band_hz[0]:g}–{metadata.band_hz[1]:g} Hz"
    counts = ", ".join(f"{split} {metadata.split_counts.get(split, 0):,}" for split in SPLITS)
    detailed = sum(caption is not None for caption in dataset.stimuli.detailed_captions)
    size = sum(metadata.segment_shards) + sum(metadata.stimulus_shards)
    return [
        f"{metadata.name}: {metadata.num_segments:,} segments of {metadata.n_channels} channels × {metadata.n_samples} "
        f"samples at {metadata.sfreq:g} Hz, band {band}",
        f"  splits        {counts} ({metadata.split_rule})",
        f"  subjects      {', '.join(map(str, metadata.subjects))}",
        f"  classes       {metadata.num_classes}: {', '.join(info.name for info in metadata.classes)}",
        f"  stimuli       {metadata.num_stimuli:,}, {detailed:,} of them with a detailed caption",
        f"  preprocessing {', '.join(preprocessing_steps(metadata.preprocessing)) or 'none beyond the file’s own'}",
        f"  storage       float16, round-trip error at most {metadata.storage.get('round_trip_rms_error', 0):.1e} of a "
        f"segment's RMS; {len(metadata.segment_shards)} + {len(metadata.stimulus_shards)} shards, {size / 1e6:,.1f} MB",
        f"  digest        {dataset.digest}",
    ]


def preprocessing_steps(preprocessing: Mapping[str, Any]) -> list[str]:
    """The steps that dataset.json says were applied to the EEG, in their order."""
    steps = []
    if preprocessing.get("steps"):
        steps.append(str(preprocessing["steps"]))
    if preprocessing.get("left_out_channels"):
        steps.append(f"without {', '.join(preprocessing['left_out_channels'])}")
    if preprocessing.get("band_hz"):
        low, high = preprocessing["band_hz"]
        steps.append(f"filtered {low:g}–{high:g} Hz")
    if preprocessing.get("resample_hz"):
        steps.append(f"resampled to {preprocessing['resample_hz']:g} Hz")
    if preprocessing.get("baseline_s"):
        start, stop = preprocessing["baseline_s"]
        edges = ("the start" if start is None else f"{start:g} s", "the end" if stop is None else f"{stop:g} s")
        steps.append(f"mean of {edges[0]} to {edges[1]} subtracted")
    repetitions = preprocessing.get("repetitions")
    if isinstance(repetitions, dict):
        averaged = [split for split, how in repetitions.items() if how == "average"]
        steps.append(f"repetitions averaged in {' and '.join(averaged)}")
    elif repetitions == "average":
        steps.append("repetitions averaged")
    steps += [name for name in ("detrend", "standardise") if preprocessing.get(name)]
    if preprocessing.get("clamp"):
        steps.append(f"clamp ±{preprocessing['clamp']:g}")
    return steps
