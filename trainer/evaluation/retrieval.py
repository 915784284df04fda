"""Finding the stimulus by the EEG alone: ridge regression from EEG features to what networks see in the picture.

Legend: N segments, n test segments, S test stimuli, D EEG features, P features of a picture.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from neuroimagen.data_shards.common.arrays import Floats, Integers
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.evaluation import metrics
from neuroimagen.trainer.evaluation.eeg_conditions import SegmentSummaries
from neuroimagen.trainer.evaluation.image_conditions import EvaluateConfig, References, ScoringNetworks
from neuroimagen.trainer.evaluation.intervals import bootstrap_mean
from neuroimagen.trainer.evaluation.metrics import DEFINITIONS
from neuroimagen.trainer.evaluation.permutation_test import identification_table, permutation_p
from neuroimagen.trainer.evaluation.results import Result, p_result, result
from neuroimagen.trainer.evaluation.segment_features import principal_components

RIDGES = tuple(10.0**power for power in range(-1, 7))
CANDIDATES = 200
_PIXELS_PX = 16


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What regression aims at, for every stimulus of the training and test parts."""

    stimuli: Integers
    clip: Floats
    pixels: Floats

    def less_training_mean(self, training: Integers) -> "Seen":
        """The same less the mean over the `training` stimuli: what all pictures share tells none of them apart."""
        chosen = np.searchsorted(self.stimuli, np.unique(training))
        return replace(
            self,
            clip=self.clip - self.clip[chosen].mean(axis=0),
            pixels=self.pixels - self.pixels[chosen].mean(axis=0),
        )


def retrieval_results(
    dataset: Dataset,
    summaries: SegmentSummaries,
    networks: ScoringNetworks,
    references: References,
    config: EvaluateConfig,
    define: Callable[[str, int], str],
) -> list[Result]:
    """Retrieval and identification figures of the linear window and of the encoder's embedding.

    `define` gives a metric's frozen definition with this evaluation's numbers.
    """
    is_test, rows = summaries.is_test, summaries.rows
    subjects, stimuli = dataset.index.subject[rows], dataset.index.stimulus[rows].astype(np.int64)
    seen = _seen(dataset, summaries, networks, references).less_training_mean(stimuli[~is_test])
    results: list[Result] = []
    inputs = {
        "linear_retrieval": (summaries.window, "each subject's window in 40 ms bins, principal components"),
        "eeg_retrieval": (summaries.embeddings, "the contrastive stage's embedding f(x)"),
    }
    for name, (features, what) in inputs.items():
        if features is None:
            continue
        how = f"by ridge regression from {what}, fitted on the training part"
        clip = predicted_features(features, seen.clip, seen.stimuli, stimuli, subjects, is_test)
        pixels = predicted_features(features, seen.pixels, seen.stimuli, stimuli, subjects, is_test)
        results += _figures(name, clip, pixels, seen, stimuli[is_test], how, references, config, define)
        groups, averaged = np.unique(
            np.stack([subjects[is_test], stimuli[is_test]], axis=1), axis=0, return_inverse=True
        )
        if len(groups) < len(clip):  # a stimulus was shown to a subject more than once
            mean_clip, mean_pixels = (_group_means(values, averaged.ravel()) for values in (clip, pixels))
            how += "; predictions averaged over the repetitions of a stimulus to a subject"
            results += _figures(
                f"{name}_averaged", mean_clip, mean_pixels, seen, groups[:, 1], how, references, config, define
            )
    return results


def _seen(dataset: Dataset, summaries: SegmentSummaries, networks: ScoringNetworks, references: References) -> Seen:
    """CLIP embeddings and small pictures of all stimuli that the summaries' segments show."""
    size_px = references.images.shape[2]
    stimuli = np.unique(dataset.index.stimulus[summaries.rows]).astype(np.int64)
    images = dataset.stimuli.images(stimuli, size_px)
    return Seen(stimuli=stimuli, clip=networks.clip.image_embeddings(images), pixels=metrics.shrink(images, _PIXELS_PX))


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
    for subject in np.unique(test_subjects):
        own = ~is_test & (subjects == subject)
        fitted_on = own if own.any() else ~is_test
        chosen = test_subjects == subject
        train, test = principal_components(features[fitted_on], features[is_test][chosen])
        predicted[chosen] = RidgeCV(RIDGES).fit(train, aims[fitted_on]).predict(test)
    return predicted


def _group_means(values: Floats, groups: Integers) -> Floats:
    sums = np.zeros((groups.max() + 1, values.shape[1]))
    np.add.at(sums, groups, values)
    return sums / np.bincount(groups)[:, None]


def _figures(
    name: str,
    clip: Floats,
    pixels: Floats,
    seen: Seen,
    stimuli: Integers,
    how: str,
    references: References,
    config: EvaluateConfig,
    define: Callable[[str, int], str],
) -> Sequence[Result]:
    columns = np.searchsorted(references.stimuli, stimuli)
    allowed = references.same_class[columns]
    candidates_seen = np.searchsorted(seen.stimuli, references.stimuli)
    in_clip = metrics.correlation_matrix(clip, seen.clip[candidates_seen])
    in_pixels = metrics.correlation_matrix(pixels, seen.pixels[candidates_seen])
    values = {
        "retrieval_top1": metrics.retrieval_accuracy(in_clip, columns),
        "retrieval_top5": metrics.retrieval_accuracy(in_clip, columns, top_k=5),
        "two_way_clip": metrics.two_way_identification(in_clip, columns),
        "within_class_two_way": metrics.two_way_identification(in_pixels, columns, allowed=allowed),
        "within_class_two_way_clip": metrics.two_way_identification(in_clip, columns, allowed=allowed),
    }
    candidates = min(CANDIDATES, len(references.stimuli))
    for top_k in (1, 5):
        if top_k < candidates:
            values[f"retrieval200_top{top_k}"] = metrics.n_way_accuracy(
                in_clip, columns, n_way=candidates, top_k=top_k, num_trials=config.num_trials, seed=config.seed
            )
    results = []
    for metric in DEFINITIONS:
        if metric not in values:
            continue
        estimate = bootstrap_mean(
            values[metric],
            columns,
            is_share=DEFINITIONS[metric].is_share,
            seed=config.seed,
            num_resamples=config.num_resamples,
        )
        if estimate.n:
            text = (
                f"{define(metric, estimate.n)}; not of a picture: features, less their training mean, predicted {how}"
            )
            if metric == "within_class_two_way":
                text = text.replace("at 64 px", f"at {_PIXELS_PX} px")
            results.append(result(name, metric, estimate, text))
    p = permutation_p(identification_table(in_pixels, columns, references.labels), references.labels, seed=config.seed)
    results.append(p_result(name, "within_class_p", p, n=len(columns)))
    return results
