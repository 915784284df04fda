"""The random numbers that an image is drawn from: functions of (seed, purpose, segment, sample) and of nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neuroimagen.data_shards.common.arrays import Integers
from neuroimagen.data_shards.format.schema import segment_key
from neuroimagen.trainer.networks.randomness import derive_seed


@dataclass(frozen=True, kw_only=True)
class SegmentSample:
    """One image to draw: one of the samples of a segment."""

    row: int
    """The segment's row in the index."""
    sample: int = 0
    """Number of the image among those of its segment."""


def normal_noise(seed: int, purpose: str, items: Sequence[SegmentSample], shape: tuple[int, ...]) -> Tensor:
    """Standard normal float32 [n, *shape], drawn on the CPU, each image's from a generator of its own.

    purpose: what the noise is for; other purposes get other noise.
    """
    return torch.stack(
        [torch.randn(shape, generator=generator) for generator in segment_generators(seed, purpose, items)]
    )


def segment_generators(seed: int, purpose: str, items: Sequence[SegmentSample]) -> list[torch.Generator]:
    """The generator that each image's noise is drawn from, on the CPU, and whatever else is random of it after that.

    purpose: what the noise is for; other purposes get other noise.
    """
    return [torch.Generator().manual_seed(_derived(seed, purpose, item)) for item in items]


def random_labels(seed: int, items: Sequence[SegmentSample], labels: Sequence[int]) -> list[int]:
    """One of `labels` for each image, all equally likely. It may be the segment's own."""
    generators = (np.random.default_rng(_derived(seed, "random class", item)) for item in items)
    return [labels[int(generator.integers(len(labels)))] for generator in generators]


def other_stimuli(seed: int, items: Sequence[SegmentSample], *, own: Integers, stimuli: Integers) -> Integers:
    """For each image another of the distinct `stimuli` than its segment's, all equally likely; int64 [n].

    `own` [n]: the stimuli of the images' segments, each of them among `stimuli`, of which there are at least two.
    """
    ordered = np.sort(stimuli)
    chosen = np.empty(len(items), dtype=np.int64)
    for place, (item, stimulus) in enumerate(zip(items, own.tolist(), strict=True)):
        generator = np.random.default_rng(_derived(seed, "other image", item))
        # One of the others: those after the own one move up a place.
        number = int(generator.integers(len(ordered) - 1))
        chosen[place] = ordered[number + (number >= int(np.searchsorted(ordered, stimulus)))]
    return chosen


def _derived(seed: int, purpose: str, item: SegmentSample) -> int:
    return derive_seed(seed, "reconstruct", purpose, segment_key(item.row), item.sample)
