"""Measures the images of a condition: every metric, per segment and of the whole set."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from neuroimagen.data_shards.common.arrays import Floats, Images, Integers
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.evaluation.conditions import condition_of
from neuroimagen.trainer.evaluation.intervals import Estimate
from neuroimagen.trainer.evaluation.metrics.metric import ImageMetric, PermutationTest, SetMetric
from neuroimagen.trainer.evaluation.metrics.registry import metrics_of, searchable_metrics
from neuroimagen.trainer.evaluation.scoring.comparison import Comparison
from neuroimagen.trainer.evaluation.scoring.scoring import References, Scoring
from neuroimagen.trainer.reconstruction.manifest import Reconstructions, read_image


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The figures of a condition: per segment (the mean over its samples), and of the whole set."""

    segments: tuple[str, ...]
    """Keys of the segments, ascending: all of the split, or those that the condition was drawn for."""
    stimuli: Integers
    """The true stimulus of each segment, as its place among the references."""
    subjects: Integers
    values: dict[str, Floats]
    """Metric → one value per segment."""
    sets: dict[str, Estimate]
    """Metric → the figure of all images together."""
    p_values: dict[str, float]
    predicted: Integers | None
    """The class of the data set with the highest score for the first sample of each segment; None without a classifier.
    """

    def places(self, segments: Collection[str]) -> Integers:
        """Where those of its segments stand that are among `segments`."""
        return np.array([place for place, key in enumerate(self.segments) if key in segments], dtype=np.int64)


def image_size(conditions: Mapping[str, Reconstructions]) -> int:
    """Side of the images in pixels. Raises UserError where conditions have images of different sizes."""
    shapes = {name: read_image(found.files[0]).shape for name, found in conditions.items()}
    if len(set(shapes.values())) > 1:
        raise UserError(
            f"the conditions hold images of different sizes: {shapes}. Run `neuroimagen reconstruct` again for all."
        )
    return next(iter(shapes.values()))[1]


def columns_of(found: Reconstructions, references: References) -> Integers:
    """The place of every image's stimulus among the references. Raises UserError for one of another split."""
    column = {key: index for index, key in enumerate(references.keys)}
    foreign = [key for key in found.stimulus_keys if key not in column]
    if foreign:
        raise UserError(
            f"{found.folder}: {len(foreign)} of {len(found)} images are not of test stimuli ({foreign[0]} for "
            "instance). Give the data set that the run was made with, and reconstruct its test split."
        )
    return np.array([column[key] for key in found.stimulus_keys], dtype=np.int64)


def measure(
    condition: str, found: Reconstructions, scoring: Scoring, *, items: list[dict[str, Any]] | None = None
) -> Measured:
    """Every metric that the condition's group has. Appends one entry per image to `items`."""
    columns = columns_of(found, scoring.references)
    distinct, shown = found.images()
    keys, first, segments = np.unique(np.array(found.segments), return_index=True, return_inverse=True)
    comparison = Comparison(scoring, distinct, columns=columns, shown=shown, segments=segments)
    group = condition_of(condition).group
    metrics = {name: metric for name, metric in metrics_of(scoring).items() if group in metric.groups}
    values = {
        name: value
        for name, metric in metrics.items()
        if isinstance(metric, ImageMetric) and (value := metric.compute(comparison)) is not None
    }
    if items is not None:
        items += _items(condition, found, comparison, values)
    counts = np.bincount(segments)
    return Measured(
        segments=tuple(keys.tolist()),
        stimuli=columns[first],
        subjects=found.subjects[first],
        values={name: np.bincount(segments, weights=value) / counts for name, value in values.items()},
        sets={
            name: figure
            for name, metric in metrics.items()
            if isinstance(metric, SetMetric) and (figure := metric.compute(comparison)) is not None
        },
        p_values={
            name: metric.compute(comparison) for name, metric in metrics.items() if isinstance(metric, PermutationTest)
        },
        predicted=comparison.predicted[first] if "class scores" in scoring.networks.offers else None,
    )


def _items(
    condition: str, found: Reconstructions, comparison: Comparison, values: Mapping[str, Floats]
) -> list[dict[str, Any]]:
    """The lines of items.csv: each image with its figures."""
    recognised = "class scores" in comparison.scoring.networks.offers
    return [
        {
            "condition": condition,
            "segment": found.segments[number],
            "stimulus": found.stimulus_keys[number],
            "label": int(found.labels[number]),
            "subject": int(found.subjects[number]),
            "sample": int(found.samples[number]),
            "file": found.files[number].relative_to(found.folder.parent).as_posix(),
            **({"predicted": int(comparison.predicted[number])} if recognised else {}),
            **{name: round(float(value[number]), 6) for name, value in values.items()},
        }
        for number in range(len(found))
    ]


def search_figures(images: Images, columns: Integers, scoring: Scoring) -> dict[str, Floats]:
    """Every metric that a guidance search can use, of each of `images`: metric → [N].

    `images`: uint8 [N, 3, H, W], one per segment; `columns` [N]: their stimuli's places among the references. Metrics
    that the settings of `evaluate` leave out are missing.
    """
    comparison = Comparison(scoring, images, columns=columns)
    return {
        name: value
        for name, metric in searchable_metrics().items()
        if name in metrics_of(scoring) and (value := metric.compute(comparison)) is not None
    }
