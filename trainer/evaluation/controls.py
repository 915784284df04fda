"""Controls: how well the block, the time of recording, other subjects or drift alone predict the class.

`control_results` train no network: they predict the class of the test segments with the linear decoder of
eeg_conditions.py, so that they compare with `linear_decoder`. The controls that trainer/retraining trains
are given as `ControlRuns`.

Legend: N segments, n test segments.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from neuroimagen.data_shards.common.arrays import Floats, Integers
from neuroimagen.data_shards.common.progress import track
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.recording_time import STRETCH_SEGMENTS, recording_time
from neuroimagen.trainer.evaluation.drift_surrogate import (
    Sessions,
    draw_drift_surrogate,
    drift_surrogate_windows,
    fit_drift,
)
from neuroimagen.trainer.evaluation.eeg_conditions import (
    EegPrediction,
    SegmentSummaries,
    can_decode_classes,
    centroid_predictions,
    embed,
    lda_predictions,
    load_encoder,
    prediction_results,
)
from neuroimagen.trainer.evaluation.intervals import Estimate
from neuroimagen.trainer.evaluation.results import Result, result
from neuroimagen.trainer.evaluation.segment_features import NUM_COMPONENTS

NUM_SURROGATES = 20
SURROGATE_CONDITION = "drift_surrogate_full"
UNSEEN_SUBJECT_CONDITION = "eeg_classifier_unseen_subject"
UNSEEN_SUBJECT_ALIGNMENT = "alignment_unseen_subject"


@dataclass(frozen=True, kw_only=True)
class ControlRuns:
    """Runs that were trained as controls of another (trainer/retraining)."""

    drift_surrogate: Path | None = None
    """The whole pipeline, trained on a drift surrogate."""
    without_subject: Mapping[int, Path] = field(default_factory=dict)
    """Subject → the contrastive stage trained on all others."""
    absent: Mapping[str, str] = field(default_factory=dict)
    """Condition → why there is no run to measure it with."""


def control_results(
    dataset: Dataset,
    summaries: SegmentSummaries,
    *,
    num_resamples: int,
    seed: int,
    num_surrogates: int = NUM_SURROGATES,
) -> list[Result]:
    """Accuracy of every control that these data allow, with permutation p-values."""
    if not can_decode_classes(dataset.index.label[summaries.rows], summaries.is_test):
        return []
    predictions = [
        prediction
        for make in (_block_index, _leave_one_subject_out, _halves_of_blocks)
        for prediction in make(dataset, summaries)
    ]
    results = prediction_results(dataset, summaries, predictions, num_resamples=num_resamples, seed=seed)
    return results + _drift_surrogates(dataset, summaries, seed=seed, num_surrogates=num_surrogates)


def sessions_of(dataset: Dataset, rows: Integers) -> Sessions:
    """When the segments in `rows` of the index were recorded."""
    time = recording_time(dataset.index, stretch=STRETCH_SEGMENTS)
    return Sessions(
        subjects=dataset.index.subject[rows].astype(np.int64), blocks=time.blocks[rows], orders=time.orders[rows]
    )


# --------------------------------------------------------------------------------------------------- block and subject


def _block_index(dataset: Dataset, summaries: SegmentSummaries) -> Sequence[EegPrediction]:
    time = recording_time(dataset.index, stretch=STRETCH_SEGMENTS)
    predicted = block_majority_predictions(
        dataset.index.label[summaries.rows].astype(np.int64),
        dataset.index.subject[summaries.rows],
        time.blocks[summaries.rows],
        summaries.is_test,
    )
    if predicted is None:
        return []
    text = "the commonest class of the same subject's training segments in the same block; no EEG"
    text += f" ({time.origin})" if time.origin else ""
    return [EegPrediction(condition="block_index_only", predicted=predicted, text=text)]


def block_majority_predictions(
    labels: Integers, subjects: Integers, blocks: Integers, is_test: np.ndarray
) -> Integers | None:
    """The commonest training label of each test segment's block, int64 [n].

    A block without training segments gets the subject's commonest label. None where blocks are unknown or a test
    subject has no training segment.
    """
    if (blocks < 0).any():
        return None
    predicted = np.empty(int(is_test.sum()), dtype=np.int64)
    for place, segment in enumerate(np.flatnonzero(is_test)):
        own = ~is_test & (subjects == subjects[segment])
        same = own & (blocks == blocks[segment])
        chosen = same if same.any() else own
        if not chosen.any():
            return None
        predicted[place] = np.bincount(labels[chosen]).argmax()
    return predicted


def _leave_one_subject_out(dataset: Dataset, summaries: SegmentSummaries) -> Sequence[EegPrediction]:
    labels = dataset.index.label[summaries.rows].astype(np.int64)
    subjects = dataset.index.subject[summaries.rows]
    if len(np.unique(subjects)) < 2:
        return []
    predicted = left_out_predictions(summaries.detrended, labels, subjects, summaries.is_test)
    text = (
        "fitted on the training segments of all other subjects, each channel's mean and slope removed, each subject's "
        f"features standardised without labels; shrinkage LDA on {NUM_COMPONENTS} principal components"
    )
    return [EegPrediction(condition="leave_one_subject_out", predicted=predicted, text=text)]


def left_out_predictions(features: Floats, labels: Integers, subjects: Integers, is_test: np.ndarray) -> Integers:
    """Labels of each subject's test segments by the decoder of all other subjects, int64 [n]; features [N, D]."""
    standard = np.empty(features.shape, dtype=np.float32)
    for subject in np.unique(subjects):
        own = subjects == subject
        spread = features[own].std(axis=0)
        standard[own] = (features[own] - features[own].mean(axis=0)) / np.where(spread > 0, spread, 1)
    predicted = np.empty(int(is_test.sum()), dtype=np.int64)
    test_subjects = subjects[is_test]
    for subject in np.unique(test_subjects):
        others = ~is_test & (subjects != subject)
        own = is_test & (subjects == subject)
        kept = others | own
        (guess,) = lda_predictions(standard[kept], [labels[kept]], np.zeros(kept.sum(), dtype=np.int64), own[kept])
        predicted[test_subjects == subject] = guess
    return predicted


def unseen_subject_results(
    dataset: Dataset,
    summaries: SegmentSummaries,
    runs: Mapping[int, Path],
    *,
    num_resamples: int,
    seed: int,
    device: str = "cpu",
) -> list[Result]:
    """Accuracy of the nearest class centroid, with encoder and centroids from all other subjects.

    `runs` are ControlRuns.without_subject. Test segments of subjects without a contrastive stage are left out.
    """
    labels = dataset.index.label[summaries.rows].astype(np.int64)
    subjects = dataset.index.subject[summaries.rows]
    test_subjects = subjects[summaries.is_test]
    predicted = np.full(len(test_subjects), -1, dtype=np.int64)
    encoders = {subject: load_encoder(run, device=device) for subject, run in runs.items()}
    for subject, encoder in encoders.items():
        if encoder is None:
            continue
        own = summaries.is_test & (subjects == subject)
        kept = own | (~summaries.is_test & (subjects != subject))
        embeddings = embed(dataset, summaries.rows[kept], encoder, device=device)
        predicted[test_subjects == subject] = centroid_predictions(embeddings, labels[kept], own[kept])
    scored = np.isin(test_subjects, [subject for subject, encoder in encoders.items() if encoder is not None])
    if not scored.any():
        return []
    text = (
        "the class whose mean embedding over the training segments of all other subjects is nearest (squared L2), by a "
        "contrastive stage trained anew without the subject; nothing is fitted to the subject, not even the scale of "
        "its channels"
    )
    prediction = EegPrediction(
        condition=UNSEEN_SUBJECT_CONDITION, predicted=predicted[scored], scored=scored, text=text
    )
    return prediction_results(dataset, summaries, [prediction], num_resamples=num_resamples, seed=seed)


def _halves_of_blocks(dataset: Dataset, summaries: SegmentSummaries) -> Sequence[EegPrediction]:
    """Decoders of the early half of every block, scored on its early and on its late half."""
    sessions = sessions_of(dataset, summaries.rows)
    if not sessions.is_known:
        return []
    labels, is_test = dataset.index.label[summaries.rows].astype(np.int64), summaries.is_test
    late = np.zeros(len(is_test), dtype=bool)
    for members in sessions.by_block():
        late[members[len(members) // 2 :]] = True
    if not (is_test & late).any() or not (is_test & ~late).any() or len(np.unique(labels[~is_test & ~late])) < 2:
        return []
    kept = is_test | ~late
    (guess,) = lda_predictions(summaries.window[kept], [labels[kept]], sessions.subjects[kept], is_test[kept])
    late_tests = late[is_test]
    text = (
        "as linear_decoder, fitted on the training segments of the first half of every block and scored on its {half}"
    )
    return [
        EegPrediction(
            condition="early_part_of_block",
            predicted=guess[~late_tests],
            scored=~late_tests,
            text=text.format(half="first half too"),
        ),
        EegPrediction(
            condition="late_part_of_block_out",
            predicted=guess[late_tests],
            scored=late_tests,
            text=text.format(half="second half"),
        ),
    ]


# ----------------------------------------------------------------------------------------------------- drift surrogates


def _drift_surrogates(dataset: Dataset, summaries: SegmentSummaries, *, seed: int, num_surrogates: int) -> list[Result]:
    """Accuracy of the linear decoders, plain and detrended, on drift surrogates: mean, and interval of a single one."""
    sessions = sessions_of(dataset, summaries.rows)
    if not sessions.is_known:
        return []
    labels, is_test = dataset.index.label[summaries.rows].astype(np.int64), summaries.is_test
    n_channels, n_samples = summaries.slow.shape[1] // 3, dataset.metadata.n_samples
    model = fit_drift(summaries.slow, sessions, seed=seed)
    rng = np.random.default_rng(seed)
    plain: list[float] = []
    detrended: list[float] = []
    for _ in track(range(num_surrogates), total=num_surrogates, desc="drift surrogates"):
        features, sources = draw_drift_surrogate(model, sessions, rng)
        flat = features.copy()
        flat[:, : 2 * n_channels] = 0  # without mean and slope: the drift that detrending does not remove
        for drawn, accuracies in ((features, plain), (flat, detrended)):
            windows = drift_surrogate_windows(drawn, sources, summaries.slow, summaries.detrended, n_samples)
            (guess,) = lda_predictions(windows, [labels], sessions.subjects, is_test)
            accuracies.append(float((guess == labels[is_test]).mean()))
    drift = (
        f"drift in {model.num_directions} directions, correlated by {model.memory:.2f} from block to block, fitted to "
        "the changes inside blocks, where the class does not change"
        if model.num_directions
        else "no drift was found inside blocks, so the surrogate has none"
    )
    figures = {
        "drift_surrogate_linear_decoder": (
            plain,
            "as linear_decoder, on drift surrogates: the recorded segments in random places, their slow part replaced "
            f"by drawn drift ({drift}); mean of {num_surrogates} surrogates, interval for a single one",
        ),
        "drift_surrogate_linear_decoder_detrended": (
            detrended,
            "as linear_decoder_detrended, on the same drift surrogates",
        ),
    }
    num_classes = dataset.metadata.num_classes
    return [
        result(
            condition,
            "accuracy",
            prediction_interval(accuracies, n=int(is_test.sum())),
            f"share of test segments, one class of {num_classes}: {text}",
        )
        for condition, (accuracies, text) in figures.items()
    ]


def prediction_interval(values: Sequence[float], *, n: int) -> Estimate:
    """Mean of shares and the 95 % interval of one more draw (Student's t), cut to 0..1; each share is of `n` items."""
    from scipy import stats

    count, mean = len(values), float(np.mean(values))
    if count < 2:
        return Estimate(value=mean, low=None, high=None, n=n)
    margin = float(stats.t.ppf(0.975, count - 1) * np.std(values, ddof=1) * np.sqrt(1 + 1 / count))
    return Estimate(value=mean, low=max(0.0, mean - margin), high=min(1.0, mean + margin), n=n)
