"""Conditions that need the EEG alone: classes by the encoder, by linear decoders, and by what only slow drift tells.

Legend: N segments, C channels, T samples, B bins of time. Everything is fitted on the training split and scored on the
test split; the validation split is not used.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from neuroimagen.data_shards.common.arrays import Floats, Integers
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.progress import track
from neuroimagen.data_shards.common.reading import read_json_object
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.recording_time import recording_time
from neuroimagen.trainer.evaluation.intervals import bootstrap_mean
from neuroimagen.trainer.evaluation.metrics.permutation_tests import permutation_p, recognition_table
from neuroimagen.trainer.evaluation.results import Result, p_result, result
from neuroimagen.trainer.evaluation.segment_features import (
    NUM_COMPONENTS,
    bin_means,
    num_bins,
    principal_components,
    remove_trend,
    slow_features,
)
from neuroimagen.trainer.networks.classifier import ClassifierModel
from neuroimagen.trainer.networks.classifier_ensemble import ClassifierEnsemble
from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder
from neuroimagen.trainer.networks.pretrained import PretrainedModule, load_exported

CROSS_VALIDATION = "cross-validation.json"
"""In a classifier stage's folder: what each encoder reaches on the segments that its networks were not trained on."""
_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class SegmentSummaries:
    """What the linear decoders use of each segment of the training and test splits."""

    rows: Integers
    """Rows of the data set's index, int64 [N]."""
    is_test: np.ndarray
    """bool [N]."""
    slow: Floats
    """Mean, slope and log amplitude over the segment of each channel, [N, 3 C]."""
    window: Floats
    """Means over bins of 40 ms, [N, C · B]."""
    detrended: Floats
    """The same after removing each channel's mean and slope, [N, C · B]."""
    embeddings: Floats | None
    """f(x) of the contrastive stage, [N, F]; None without an exported encoder."""
    evoked: Floats
    """Mean over all N segments, [C, T]."""

    @property
    def mean_slope(self) -> Floats:
        """Mean and slope of each channel, [N, 2 C]."""
        return self.slow[:, : 2 * len(self.evoked)]


def summarise_segments(
    dataset: Dataset,
    *,
    encoder: EEGEncoder | None,
    subjects: Sequence[int] | None = None,
    device: str = "cpu",
    with_validation: bool = False,
) -> SegmentSummaries:
    """Summarise the training and test splits in one pass over the EEG; only the summaries grow with the data.

    `with_validation`: the validation split is fitted on as well, as an ensemble of folds is trained on it.
    """
    train, test = dataset.rows("train", subjects), dataset.rows("test", subjects)
    if with_validation:
        train = np.sort(np.concatenate([train, dataset.rows("val", subjects)]))
    rows = np.concatenate([train, test])
    batches: dict[str, list[np.ndarray]] = {name: [] for name in ("slow", "window", "detrended", "embeddings")}
    total = np.zeros((dataset.metadata.n_channels, dataset.metadata.n_samples))
    bins = num_bins(dataset.metadata.n_samples, dataset.metadata.sfreq)
    for batch, eeg in _eeg_batches(dataset, rows):
        total += eeg.sum(axis=0)
        mean, slope, residual = remove_trend(eeg)
        batches["slow"].append(slow_features(mean, slope, residual))
        batches["window"].append(bin_means(eeg, bins))
        batches["detrended"].append(bin_means(residual, bins))
        if encoder is not None:
            batches["embeddings"].append(_features(encoder, eeg, dataset.index.subject[batch], device))
    return SegmentSummaries(
        rows=rows,
        is_test=np.arange(len(rows)) >= len(train),
        slow=np.concatenate(batches["slow"]),
        window=np.concatenate(batches["window"]),
        detrended=np.concatenate(batches["detrended"]),
        embeddings=np.concatenate(batches["embeddings"]) if encoder is not None else None,
        evoked=total / len(rows),
    )


def load_encoder(run: Path, *, device: str = "cpu") -> EEGEncoder | None:
    """The contrastive stage's f_θ, or None if that stage has not been trained."""
    folder = run / "contrastive" / "export"
    return EEGEncoder.from_pretrained(folder, device=device) if folder.is_dir() else None


def classifier_prediction(
    run: Path, dataset: Dataset, rows: Integers, *, device: str = "cpu"
) -> "EegPrediction | None":
    """The classes that the classifier stage gives the segments in `rows`; None if that stage has not been trained.

    Raises UserError if it was trained for another number of classes than the data set has.
    """
    folder = run / "classifier" / "export"
    if not folder.is_dir():
        return None
    model = load_exported(folder).to(device)
    if not isinstance(model, ClassifierModel | ClassifierEnsemble):
        raise UserError(f"{folder} holds no classifier. Train the classifier stage again.")
    num_classes = dataset.metadata.num_classes
    if model.num_classes != num_classes:
        raise UserError(
            f"{folder} knows {model.num_classes} classes, the data set has {num_classes}. Give the data set that "
            "the stage was trained on."
        )
    text = "the class with the highest score of the classifier stage, whose weights the validation split chose"
    if isinstance(model, ClassifierEnsemble):
        text = (
            f"the class with the highest weighted mean probability of the classifier stage's {len(model.members)} "
            "networks, weighed by cross-validation within the training and validation splits"
        )
    predicted = []
    for batch, eeg in _eeg_batches(dataset, rows):
        predicted.append(_features(model, eeg, dataset.index.subject[batch], device).argmax(axis=1))
    return EegPrediction(
        condition="classifier_stage",
        predicted=np.concatenate(predicted).astype(np.int64),
        text=text,
    )


def is_cross_validated(run: Path) -> bool:
    """Whether the run's classifier stage has been trained on folds of the training and validation splits together."""
    path = run / "classifier" / CROSS_VALIDATION
    return path.is_file() and read_json_object(path).get("folds") is not None


def embed(dataset: Dataset, rows: Integers, encoder: EEGEncoder, *, device: str = "cpu") -> Floats:
    """f(x) of the segments in `rows` [N] of the index, float32 [N, F]."""
    subjects = dataset.index.subject
    return np.concatenate(
        [_features(encoder, eeg, subjects[batch], device) for batch, eeg in _eeg_batches(dataset, rows)]
    )


def _features(encoder: PretrainedModule, eeg: np.ndarray, subject: np.ndarray, device: str) -> np.ndarray:
    subjects = torch.from_numpy(subject.astype(np.int64)).to(device)
    with torch.inference_mode():
        return encoder(torch.from_numpy(eeg).to(device), subjects).float().cpu().numpy()


def _eeg_batches(dataset: Dataset, rows: Integers) -> Iterator[tuple[Integers, np.ndarray]]:
    """Batches of the rows with their EEG [n, C, T]."""
    starts = range(0, len(rows), _BATCH)
    for start in track(starts, total=len(starts), desc="reading EEG", unit="batch"):
        batch = rows[start : start + _BATCH]
        yield batch, np.stack([dataset.eeg(int(row)) for row in batch])


# ------------------------------------------------------------------------------------------------------- predictions


def lda_predictions(
    features: Floats,
    label_sets: Sequence[Integers],
    subjects: Integers,
    is_test: np.ndarray,
    *,
    num_components: int = NUM_COMPONENTS,
) -> list[Integers]:
    """Labels of the test segments by shrinkage LDA on principal components; int64 [num_test] for each label set.

    Each subject has a decoder of its own, fitted on its training segments; a subject without training segments (left
    out as a whole) gets the decoder of all others. The components are computed once for all label sets.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    predicted: list[Integers] = [np.empty(int(is_test.sum()), dtype=np.int64) for _ in label_sets]
    test_subjects = subjects[is_test]
    each = np.unique(test_subjects)
    for subject in track(each, total=len(each), desc="linear decoder", unit="subject"):
        own = ~is_test & (subjects == subject)
        fitted_on = own if len(np.unique(label_sets[0][own])) > 1 else ~is_test
        chosen = test_subjects == subject
        train, test = principal_components(
            features[fitted_on], features[is_test][chosen], num_components=num_components
        )
        for labels, out in zip(label_sets, predicted, strict=True):
            decoder = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
            with warnings.catch_warnings():
                # A class with one segment adds nothing to the pooled covariance; the warning about it is expected.
                warnings.filterwarnings("ignore", "Only one sample available", UserWarning)
                out[chosen] = decoder.fit(train, labels[fitted_on]).predict(test)
    return predicted


def centroid_predictions(embeddings: Floats, labels: Integers, is_test: np.ndarray) -> Integers:
    """The class whose mean training embedding is nearest (squared L2, the loss' distance), int64 [num_test]."""
    classes = np.unique(labels[~is_test])
    centroids = np.stack([embeddings[~is_test & (labels == label)].mean(axis=0) for label in classes])
    distances = ((embeddings[is_test][:, None, :] - centroids[None]) ** 2).sum(axis=2)
    return classes[distances.argmin(axis=1)]


def nearest_in_time_predictions(
    labels: Integers, subjects: Integers, blocks: Integers, orders: Integers, is_test: np.ndarray
) -> Integers | None:
    """The label of the same subject's training segment nearest in recording time, int64 [num_test].

    Time is the block, then the position within it: segments of the same block are nearer than all others. Of two
    equally near segments the earlier is taken. None where blocks or positions are unknown (−1), or a test subject has
    no training segment.
    """
    if (blocks < 0).any() or (orders < 0).any():
        return None
    time = blocks.astype(np.int64) * 2 * (int(orders.max()) + 1) + orders
    predicted = np.empty(int(is_test.sum()), dtype=np.int64)
    test_subjects = subjects[is_test]
    for subject in np.unique(test_subjects):
        train = np.flatnonzero(~is_test & (subjects == subject))
        if not len(train):
            return None
        train = train[np.argsort(time[train], kind="stable")]
        chosen = test_subjects == subject
        gaps = np.abs(time[is_test][chosen][:, None] - time[train][None])
        predicted[chosen] = labels[train][gaps.argmin(axis=1)]
    return predicted


def shuffled_within_subjects(labels: Integers, subjects: Integers, is_test: np.ndarray, *, seed: int) -> Integers:
    """The labels, permuted within each subject in the training split; those of the test split are unchanged."""
    rng = np.random.default_rng(seed)
    shuffled = labels.copy()
    for subject in np.unique(subjects):
        chosen = np.flatnonzero(~is_test & (subjects == subject))
        shuffled[chosen] = labels[rng.permutation(chosen)]
    return shuffled


# ----------------------------------------------------------------------------------------------------------- results


@dataclass(frozen=True, kw_only=True)
class EegPrediction:
    """Classes that a condition predicts for the n test segments."""

    condition: str
    predicted: Integers
    """int64 [n], or one entry for each segment that `scored` marks."""
    text: str
    """How they are predicted; the figure's definition ends with it."""
    scored: np.ndarray | None = None
    """bool [n]: which test segments are predicted; None for all."""


def can_decode_classes(labels: Integers, is_test: np.ndarray) -> bool:
    """Whether there are two training classes, and a test class among them (zero-shot splits have none)."""
    trained = np.unique(labels[~is_test])
    return len(trained) > 1 and bool(np.isin(labels[is_test], trained).any())


def eeg_results(dataset: Dataset, summaries: SegmentSummaries, *, num_resamples: int, seed: int) -> list[Result]:
    """Accuracy of each condition that needs the EEG alone, with intervals over test stimuli and a permutation p."""
    predictions = eeg_predictions(dataset, summaries, seed=seed)
    return prediction_results(dataset, summaries, predictions, num_resamples=num_resamples, seed=seed)


def eeg_predictions(dataset: Dataset, summaries: SegmentSummaries, *, seed: int) -> list[EegPrediction]:
    """What each condition predicts; conditions that these data do not allow are left out."""
    index, rows, is_test = dataset.index, summaries.rows, summaries.is_test
    labels, subjects = index.label[rows].astype(np.int64), index.subject[rows]
    if not can_decode_classes(labels, is_test):
        return []
    fitted = "the class of a test segment, fitted on the training split of the same subject"
    shuffled = shuffled_within_subjects(labels, subjects, is_test, seed=seed)

    def lda(features: Floats, *label_sets: Integers) -> list[Integers]:
        return lda_predictions(features, label_sets, subjects, is_test)

    plain, permuted = lda(summaries.window, labels, shuffled)
    (detrended,) = lda(summaries.detrended, labels)
    (mean_slope,) = lda(summaries.mean_slope, labels)
    recorded = recording_time(index)
    time = nearest_in_time_predictions(labels, subjects, recorded.blocks[rows], recorded.orders[rows], is_test)
    predictions = [
        EegPrediction(
            condition="linear_decoder",
            predicted=plain,
            text=f"{fitted}; shrinkage LDA on {NUM_COMPONENTS} principal components",
        ),
        EegPrediction(
            condition="linear_decoder_detrended",
            predicted=detrended,
            text=f"{fitted}; as linear_decoder, each channel's mean and slope removed from each segment first",
        ),
        EegPrediction(
            condition="mean_slope_only",
            predicted=mean_slope,
            text=f"{fitted}; each channel's mean and slope are its only features",
        ),
        EegPrediction(
            condition="permuted_labels",
            predicted=permuted,
            text="as linear_decoder, fitted on training labels that were shuffled within subjects: must be at chance",
        ),
    ]
    if time is not None:
        text = "the class of the training segment of the same subject that was recorded nearest in time; no EEG"
        predictions.append(EegPrediction(condition="time_index_only", predicted=time, text=text))
    if summaries.embeddings is not None:
        predictions.append(
            EegPrediction(
                condition="eeg_classifier",
                predicted=centroid_predictions(summaries.embeddings, labels, is_test),
                text="the class whose mean training embedding of the contrastive stage is nearest (squared L2)",
            )
        )
    return predictions


def prediction_results(
    dataset: Dataset,
    summaries: SegmentSummaries,
    predictions: Sequence[EegPrediction],
    *,
    num_resamples: int,
    seed: int,
) -> list[Result]:
    """Accuracy with its interval over test stimuli, and the permutation p, of each condition."""
    index, test = dataset.index, summaries.rows[summaries.is_test]
    results = []
    for prediction in predictions:
        scored = test if prediction.scored is None else test[prediction.scored]
        labels = index.label[scored].astype(np.int64)
        stimuli, shown = np.unique(index.stimulus[scored], return_inverse=True)
        stimulus_labels = dataset.stimuli.labels[stimuli]
        unit = ""
        if len(stimuli) == len(np.unique(labels)) < len(scored):
            # One stimulus a class: resampling or permuting so few says nothing of how many segments were right.
            shown, stimulus_labels = np.arange(len(scored)), labels
            unit = "; each class has one stimulus, so interval and p are over segments"
        hits = (prediction.predicted == labels).astype(np.float64)
        estimate = bootstrap_mean(hits, shown, is_share=True, seed=seed, num_resamples=num_resamples)
        text = f"share of test segments, one class of {dataset.metadata.num_classes}: {prediction.text}{unit}"
        p = permutation_p(recognition_table(prediction.predicted, shown, stimulus_labels), seed=seed)
        results += [
            result(prediction.condition, "accuracy", estimate, text),
            p_result(prediction.condition, "permutation_p", p, n=len(scored)),
        ]
    return results
