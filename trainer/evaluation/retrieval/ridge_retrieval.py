"""Retrieval of the stimulus from the EEG alone: ridge regression from EEG features to features of the image.

Legend: N segments, n test segments, S test stimuli, D EEG features, P features of an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from neuroimagen.data_shards.common.arrays import Floats, Integers
from neuroimagen.data_shards.common.progress import track
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.evaluation.eeg_conditions import SegmentSummaries
from neuroimagen.trainer.evaluation.intervals import bootstrap_mean
from neuroimagen.trainer.evaluation.metrics.identification import retrieval_accuracy, two_way_identification
from neuroimagen.trainer.evaluation.metrics.n_way_accuracy import n_way_accuracy
from neuroimagen.trainer.evaluation.metrics.permutation_tests import identification_table, permutation_p
from neuroimagen.trainer.evaluation.metrics.registry import all_metrics
from neuroimagen.trainer.evaluation.results import Result, p_result, result
from neuroimagen.trainer.evaluation.scoring.correlation import correlation_matrix, shrink
from neuroimagen.trainer.evaluation.scoring.scoring import Scoring
from neuroimagen.trainer.evaluation.segment_features import principal_components

RIDGES = tuple(10.0**power for power in range(-1, 7))
_PIXELS_PX = 16


@dataclass(frozen=True, kw_only=True)
class StimulusFeatures:
    """The targets of the regression, for every stimulus of the training and test splits."""

    stimuli: Integers
    """Numbers of the stimuli in the data set, ascending."""
    clip: Floats
    """CLIP image embeddings."""
    pixels: Floats
    """RGB values at 16 px."""

    def minus_training_mean(self, training: Integers) -> "StimulusFeatures":
        """The features minus their mean over the `training` stimuli, because what all images share identifies none."""
        chosen = np.searchsorted(self.stimuli, np.unique(training))
        return replace(
            self,
            clip=self.clip - self.clip[chosen].mean(axis=0),
            pixels=self.pixels - self.pixels[chosen].mean(axis=0),
        )


def retrieval_results(dataset: Dataset, summaries: SegmentSummaries, scoring: Scoring) -> list[Result]:
    """Retrieval and identification figures of the linear window and of the encoder's embedding."""
    is_test, rows = summaries.is_test, summaries.rows
    subjects, stimuli = dataset.index.subject[rows], dataset.index.stimulus[rows].astype(np.int64)
    targets = _stimulus_features(dataset, summaries, scoring).minus_training_mean(stimuli[~is_test])
    results: list[Result] = []
    inputs = {
        "linear_retrieval": (summaries.window, "each subject's window in 40 ms bins, principal components"),
        "eeg_retrieval": (summaries.embeddings, "the contrastive stage's embedding f(x)"),
    }
    for condition, (features, what) in inputs.items():
        if features is None:
            continue
        how = f"by ridge regression from {what}, fitted on the training split"
        clip = predicted_features(features, targets.clip, targets.stimuli, stimuli, subjects, is_test)
        pixels = predicted_features(features, targets.pixels, targets.stimuli, stimuli, subjects, is_test)
        results += _figures(condition, clip, pixels, targets, stimuli[is_test], how, scoring)
        groups, averaged = np.unique(
            np.stack([subjects[is_test], stimuli[is_test]], axis=1), axis=0, return_inverse=True
        )
        if len(groups) < len(clip):  # a stimulus was shown to a subject more than once
            mean_clip, mean_pixels = (group_means(values, averaged.ravel()) for values in (clip, pixels))
            how += "; predictions averaged over the repetitions of a stimulus to a subject"
            results += _figures(f"{condition}_averaged", mean_clip, mean_pixels, targets, groups[:, 1], how, scoring)
    return results


def _stimulus_features(dataset: Dataset, summaries: SegmentSummaries, scoring: Scoring) -> StimulusFeatures:
    """CLIP embeddings and small images of all stimuli of the summaries' segments."""
    size_px = scoring.references.images.shape[2]
    stimuli = np.unique(dataset.index.stimulus[summaries.rows]).astype(np.int64)
    images = dataset.stimuli.images(stimuli, size_px)
    return StimulusFeatures(
        stimuli=stimuli,
        clip=scoring.networks.clip.image_embeddings(images),
        pixels=shrink(images, _PIXELS_PX),
    )


def predicted_features(
    features: Floats,
    targets: Floats,
    target_stimuli: Integers,
    stimuli: Integers,
    subjects: Integers,
    is_test: np.ndarray,
) -> Floats:
    """Targets [n, P] predicted for the test segments by ridge regression on standardised features [N, D].

    Each subject has a regression of its own (a subject without training segments gets that of all others); the ridge is
    chosen on the training segments by leave-one-out.
    """
    from sklearn.linear_model import RidgeCV

    aims = targets[np.searchsorted(target_stimuli, stimuli)]
    predicted = np.empty((int(is_test.sum()), targets.shape[1]))
    test_subjects = subjects[is_test]
    each = np.unique(test_subjects)
    for subject in track(each, total=len(each), desc="ridge regression", unit="subject"):
        own = ~is_test & (subjects == subject)
        fitted_on = own if own.any() else ~is_test
        chosen = test_subjects == subject
        train, test = principal_components(features[fitted_on], features[is_test][chosen])
        predicted[chosen] = RidgeCV(RIDGES).fit(train, aims[fitted_on]).predict(test)
    return predicted


def group_means(values: Floats, groups: Integers) -> Floats:
    """Means of the rows of each group: [n, P], groups [n] in 0..G−1 → [G, P]."""
    sums = np.zeros((groups.max() + 1, values.shape[1]))
    np.add.at(sums, groups, values)
    return sums / np.bincount(groups)[:, None]


def _figures(
    condition: str,
    clip: Floats,
    pixels: Floats,
    targets: StimulusFeatures,
    stimuli: Integers,
    how: str,
    scoring: Scoring,
) -> Sequence[Result]:
    """Figures of features predicted for n segments (or averages of them), of the `stimuli` [n]."""
    references, config = scoring.references, scoring.config
    columns = np.searchsorted(references.stimuli, stimuli)
    allowed = references.same_class[columns]
    candidates = np.searchsorted(targets.stimuli, references.stimuli)
    in_clip = correlation_matrix(clip, targets.clip[candidates])
    in_pixels = correlation_matrix(pixels, targets.pixels[candidates])
    values = {
        "retrieval_top1": retrieval_accuracy(in_clip, columns),
        "retrieval_top5": retrieval_accuracy(in_clip, columns, top_k=5),
        "two_way_clip": two_way_identification(in_clip, columns),
        "within_class_two_way": two_way_identification(in_pixels, columns, allowed=allowed),
        "within_class_two_way_clip": two_way_identification(in_clip, columns, allowed=allowed),
    }
    for top_k in (1, 5):
        if top_k < scoring.num_candidates:
            values[f"retrieval200_top{top_k}"] = n_way_accuracy(
                in_clip,
                columns,
                n_way=scoring.num_candidates,
                top_k=top_k,
                num_trials=config.num_trials,
                seed=config.seed,
            )
    results = []
    for name, metric in all_metrics().items():
        if name not in values:
            continue
        estimate = bootstrap_mean(
            values[name], columns, is_share=metric.is_share, seed=config.seed, num_resamples=config.num_resamples
        )
        if estimate.n:
            definition = metric.define({**scoring.numbers, "n_images": estimate.n})
            text = f"{definition}; not of an image: features, less their training mean, predicted {how}"
            if name == "within_class_two_way":
                text = text.replace("at 64 px", f"at {_PIXELS_PX} px")
            results.append(result(condition, name, estimate, text))
    p = permutation_p(identification_table(in_pixels, columns, references.labels), references.labels, seed=config.seed)
    results.append(p_result(condition, "within_class_p", p, n=len(columns)))
    return results
