"""Measures pictures: the networks that judge them, the stimuli they are compared with, every metric of one row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.bundled_model.location import BUNDLED, bundled_model_path, present_name
from neuroimagen.trainer.evaluation import metrics
from neuroimagen.trainer.evaluation.feature_networks import (
    ClipModel,
    Described,
    ImageClassifier,
    PerceptualDistance,
    classes_in_classifier,
)
from neuroimagen.trainer.evaluation.intervals import NUM_RESAMPLES, Estimate
from neuroimagen.trainer.evaluation.metrics import Floats, Images, Integers
from neuroimagen.trainer.evaluation.permutation_test import identification_table, permutation_p, recognition_table
from neuroimagen.trainer.reconstruction.manifest import Reconstructions, read_image


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Which networks judge the pictures, and how."""

    classifier: str = BUNDLED
    """Folder of a transformers image classifier whose labels hold the data set's classes (by WordNet id or name)."""
    clip: str = BUNDLED
    """Folder of a CLIP model."""
    perceptual: str | None = None
    """Folder of a transformers vision network for the perceptual distance; null leaves the distance out."""
    n_way: int = 50
    """Classes that a picture's class is told from; at most all that the classifier knows."""
    num_trials: int = 50
    """Draws of the other classes, where not all take part."""
    num_resamples: int = NUM_RESAMPLES
    """Bootstrap resamples behind an interval."""
    inception_splits: int = 10
    """Splits of the Inception Score."""
    batch_size: int = 64
    """Pictures that the networks see at once."""
    seed: int = 0
    """Of the trials, the splits and the bootstrap."""

    def __post_init__(self) -> None:
        for name in ("classifier", "clip"):
            object.__setattr__(self, name, present_name(getattr(self, name)))
        for name, least in (("n_way", 2), ("num_trials", 1), ("num_resamples", 100), ("inception_splits", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"evaluate.{name} must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Judges:
    """The networks, and where the data set's classes are among the classifier's."""

    classifier: ImageClassifier
    clip: ClipModel
    classes: Integers  # int64 [classes of the data set]
    perceptual: PerceptualDistance | None = None


@dataclass(frozen=True, kw_only=True)
class Truth:
    """The stimuli of one part that pictures are compared with; arrays have one entry a stimulus."""

    stimuli: Integers
    keys: tuple[str, ...]
    labels: Integers
    images: Images
    judged: Described
    clip: Described
    captions: Floats
    pixels: Floats

    @property
    def same_class(self) -> np.ndarray:
        """bool [S, S]."""
        return self.labels[:, None] == self.labels[None]

    @property
    def class_sizes(self) -> str:
        """Number of stimuli a class, as text: "4" or "3 to 5"."""
        counts = np.unique(np.unique(self.labels, return_counts=True)[1])
        return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The figures of one row: per segment (the mean over its samples), and of the whole set."""

    stimuli: Integers  # column of Truth, one entry a segment
    subjects: Integers
    values: dict[str, Floats]
    sets: dict[str, Estimate]
    predicted: Integers  # class of the data set that scores highest for the first sample, one entry a segment
    p_values: dict[str, float]


def load_judges(config: EvaluateConfig, dataset: Dataset, *, device: str) -> Judges:
    """The classifier and the CLIP model of a configuration; "bundled" is the model that ships with the package."""

    def folder(name: str, part: str) -> Path:
        return bundled_model_path() / part if name == BUNDLED else Path(name).expanduser()

    classifier = ImageClassifier.from_folder(
        folder(config.classifier, "classifier"), device=device, batch_size=config.batch_size
    )
    clip = ClipModel.from_folder(folder(config.clip, "clip"), device=device, batch_size=config.batch_size)
    classes = dataset.metadata.classes
    indices = classes_in_classifier(
        classifier.id_to_label, [item.wnid for item in classes], [item.name for item in classes]
    )
    perceptual = None
    if config.perceptual is not None:
        path = folder(config.perceptual, "classifier")
        perceptual = PerceptualDistance.from_folder(path, device=device, batch_size=config.batch_size)
    return Judges(classifier=classifier, clip=clip, classes=indices, perceptual=perceptual)


def picture_size(rows: Mapping[str, Reconstructions]) -> int:
    shapes = {name: read_image(pictures.files[0]).shape for name, pictures in rows.items()}
    if len(set(shapes.values())) > 1:
        raise UserError(
            f"rows hold pictures of different sizes: {shapes}. Run `neuroimagen reconstruct` again for all of them."
        )
    return next(iter(shapes.values()))[1]


def describe_stimuli(
    dataset: Dataset,
    judges: Judges,
    *,
    subjects: Sequence[int] | None,
    size_px: int,
    split: Literal["val", "test"] = "test",
) -> Truth:
    """Every stimulus of a part, seen by the networks once for all rows."""
    stimuli = np.unique(dataset.index.stimulus[dataset.rows(split, subjects)]).astype(np.int64)
    images = dataset.stimuli.images(stimuli, size_px)
    return Truth(
        stimuli=stimuli,
        keys=tuple(dataset.stimuli.keys[index] for index in stimuli),
        labels=dataset.stimuli.labels[stimuli],
        images=images,
        judged=judges.classifier.describe(images),
        clip=judges.clip.describe(images),
        captions=judges.clip.text_embeddings([dataset.stimuli.captions[index] for index in stimuli]),
        pixels=metrics.shrink(images),
    )


def columns_of(pictures: Reconstructions, truth: Truth) -> Integers:
    """The column of Truth of every picture's stimulus; UserError where one is not of the test part."""
    column = {key: index for index, key in enumerate(truth.keys)}
    foreign = [key for key in pictures.stimulus_keys if key not in column]
    if foreign:
        raise UserError(
            f"{pictures.folder}: {len(foreign)} of {len(pictures)} pictures are not of test stimuli "
            f"({foreign[0]} for instance). Give the data set that the run was made with, and reconstruct its test part."
        )
    return np.array([column[key] for key in pictures.stimulus_keys], dtype=np.int64)


def measure(
    pictures: Reconstructions,
    columns: Integers,
    judges: Judges,
    truth: Truth,
    config: EvaluateConfig,
    items: list[dict[str, Any]],
) -> Measured:
    """Every metric of one row; appends one entry a picture to `items`."""
    distinct, shown = pictures.images()
    judged, clip = judges.classifier.describe(distinct).take(shown), judges.clip.describe(distinct).take(shown)
    assert judged.scores is not None
    assert truth.judged.scores is not None
    scores, features = judged.scores, judged.features
    images = distinct[shown]
    num_classes = scores.shape[1]
    n_way = min(config.n_way, num_classes)
    targets = judges.classes[truth.labels[columns]]
    allowed = truth.same_class[columns]

    def accuracy(target: Integers, top_k: int = 1) -> Floats:
        return metrics.n_way_accuracy(
            scores, target, n_way=n_way, top_k=top_k, num_trials=config.num_trials, seed=config.seed
        )

    in_clip = metrics.correlation_matrix(clip.features, truth.clip.features)
    in_features = metrics.correlation_matrix(features, truth.judged.features)
    in_pixels = metrics.correlation_matrix(metrics.shrink(images), truth.pixels)
    values = {
        "accuracy": accuracy(targets),
        "accuracy_own_verdict": accuracy(truth.judged.scores[columns].argmax(axis=1)),
        "ssim": metrics.ssim(images, truth.images[columns]),
        "pixcorr": metrics.pixel_correlation(images, truth.images[columns]),
        "two_way_clip": metrics.two_way_identification(in_clip, columns),
        "two_way_classifier": metrics.two_way_identification(in_features, columns),
        **{
            f"two_way_{network}_{layer}": metrics.two_way_identification(
                metrics.correlation_matrix(getattr(seen, layer), getattr(true, layer)), columns
            )
            for network, seen, true in (("clip", clip, truth.clip), ("classifier", judged, truth.judged))
            for layer in ("early", "late")
        },
        "two_way_pixels": metrics.two_way_identification(in_pixels, columns),
        "within_class_two_way": metrics.two_way_identification(in_pixels, columns, allowed=allowed),
        "within_class_two_way_clip": metrics.two_way_identification(in_clip, columns, allowed=allowed),
        "within_class_top1": metrics.retrieval_accuracy(in_pixels, columns, allowed=allowed),
        "retrieval_top1": metrics.retrieval_accuracy(in_clip, columns),
        "retrieval_top5": metrics.retrieval_accuracy(in_clip, columns, top_k=5),
        "caption_similarity": _cosine(clip.features, truth.captions[columns]),
    }
    if n_way > 5:
        values["accuracy_top5"] = accuracy(targets, top_k=5)
    if judges.perceptual is not None:
        distances = judges.perceptual.distances(images, truth.images[columns])
        values["perceptual_distance"] = distances
    predicted = scores[:, judges.classes].argmax(axis=1)
    for item in range(len(pictures)):
        items.append(
            {
                "row": pictures.condition,
                "segment": pictures.segments[item],
                "stimulus": pictures.stimulus_keys[item],
                "label": int(pictures.labels[item]),
                "subject": int(pictures.subjects[item]),
                "sample": int(pictures.samples[item]),
                "file": pictures.files[item].relative_to(pictures.folder.parent).as_posix(),
                "predicted": int(predicted[item]),
                **{name: round(float(value[item]), 6) for name, value in values.items()},
            }
        )
    first, segment_of = np.unique(np.array(pictures.segments), return_index=True, return_inverse=True)[1:]
    counts = np.bincount(segment_of)
    return Measured(
        stimuli=columns[first],
        subjects=pictures.subjects[first],
        values={name: np.bincount(segment_of, weights=value) / counts for name, value in values.items()},
        sets=_set_figures(scores, features, columns, truth, config),
        predicted=predicted[first],
        p_values={
            "permutation_p": permutation_p(
                recognition_table(predicted[first], columns[first], truth.labels), seed=config.seed
            ),
            "within_class_p": permutation_p(
                identification_table(in_pixels, columns, truth.labels), truth.labels, seed=config.seed
            ),
        },
    )


def _set_figures(
    scores: Floats, features: Floats, columns: Integers, truth: Truth, config: EvaluateConfig
) -> dict[str, Estimate]:
    """Inception Score, FID and KID of a row's pictures; those that are too few pictures are left out."""
    n = len(scores)
    figures: dict[str, Estimate] = {}
    if n >= 2 * config.inception_splits:
        shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
        mean, deviation = metrics.inception_score(
            shifted / shifted.sum(axis=1, keepdims=True), num_splits=config.inception_splits, seed=config.seed
        )
        margin = 1.96 * deviation / np.sqrt(config.inception_splits)
        bounded = config.inception_splits > 1
        figures["inception_score"] = Estimate(
            value=mean, low=mean - margin if bounded else None, high=mean + margin if bounded else None, n=n
        )
    if min(n, len(truth.judged.features)) >= 2:
        distance = metrics.frechet_distance(features, truth.judged.features)
        figures["fid"] = Estimate(value=distance, low=None, high=None, n=n)
        value, error = metrics.kernel_distance(
            features,
            truth.judged.features,
            feature_stimuli=columns,
            reference_stimuli=np.arange(len(truth.judged.features)),
        )
        bounded = bool(np.isfinite(error))
        figures["kid"] = Estimate(
            value=value,
            low=value - 1.96 * error if bounded else None,
            high=value + 1.96 * error if bounded else None,
            n=n,
        )
    return figures


def _cosine(x: Floats, y: Floats) -> Floats:
    return np.einsum("nd,nd->n", x, y) / np.maximum(np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1), 1e-12)
