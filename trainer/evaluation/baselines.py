"""Baselines: decoders of the class from scikit-learn and pyriemann, fitted and scored on the model's own split.

Each subject has a decoder of its own, as in eeg_conditions.py. Legend: N segments, C channels, T samples, B bands.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from neuroimagen.data_shards.common.arrays import Floats, Integers
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.progress import track
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.evaluation.eeg_conditions import EegPrediction, SegmentSummaries, prediction_results
from neuroimagen.trainer.evaluation.results import Result
from neuroimagen.trainer.evaluation.segment_features import principal_components

BANDS_HZ = {"delta": (1, 4), "theta": (4, 8), "alpha": (8, 13), "beta": (13, 30), "gamma": (30, 95)}
NUM_SPATIAL = 16
"""Number of principal components over the channels, of which the covariances are computed."""
Predict = Callable[[Floats, Integers, Floats], Integers]
"""(training features, their labels, test features) → labels."""


def baseline_results(
    dataset: Dataset, summaries: SegmentSummaries, *, num_resamples: int, seed: int, with_validation: bool = False
) -> list[Result]:
    """Accuracy of every baseline, with intervals and permutation p.

    `with_validation`: the summaries' segments that are not of the test split are of training and validation.
    """
    eeg = np.stack([dataset.eeg(int(row)) for row in track(summaries.rows, total=len(summaries.rows), desc="EEG")])
    power, bands = band_power(eeg, dataset.metadata.sfreq)
    labels = dataset.index.label[summaries.rows].astype(np.int64)
    subjects = dataset.index.subject[summaries.rows]
    own = (
        f"fitted on the {'training and validation splits' if with_validation else 'training split'} of the same subject"
    )
    table: Sequence[tuple[str, Floats, Predict, str]] = (
        ("nearest_class_mean", summaries.window, _nearest_mean, "the class whose mean window is nearest (Euclidean)"),
        ("ridge_raw", summaries.window, _ridge, "scikit-learn's RidgeClassifierCV on the window in 40 ms bins"),
        ("logistic_raw", summaries.window, _logistic, "logistic regression on principal components of the window"),
        ("ridge_band_power", power, _ridge, f"scikit-learn's RidgeClassifierCV on log power in {', '.join(bands)}"),
        ("logistic_band_power", power, _logistic, "logistic regression on principal components of log band power"),
        ("riemann_mdm", eeg, _riemann_mdm, "pyriemann: minimum distance to the Riemannian mean of ERP covariances"),
        ("riemann_tangent", eeg, _riemann_tangent, "pyriemann: tangent space of ERP covariances, logistic regression"),
        ("riemann_tangent_power", eeg, _riemann_power, "pyriemann: tangent space of covariances, logistic regression"),
    )
    predictions = [
        EegPrediction(
            condition=name,
            predicted=_per_subject(features, labels, subjects, summaries.is_test, predict),
            text=f"{text}; {own}",
        )
        for name, features, predict, text in track(table, total=len(table), desc="baselines")
    ]
    return prediction_results(dataset, summaries, predictions, num_resamples=num_resamples, seed=seed)


def band_power(eeg: Floats, sfreq: float) -> tuple[Floats, list[str]]:
    """Log power of each channel in each band that the window resolves: [N, C, T] → [N, C · B] and the bands' names."""
    from scipy.signal import periodogram

    resolution, highest = sfreq / eeg.shape[2], sfreq / 2
    bands = {name: band for name, band in BANDS_HZ.items() if band[1] > 1.5 * resolution and band[0] < highest}
    chunks: list[list[Floats]] = []
    for segments in np.array_split(eeg, max(1, len(eeg) // 256)):
        frequencies, density = periodogram(segments, sfreq, window="hann", detrend="linear")
        chunks.append(
            [
                np.log(density[:, :, (frequencies >= low) & (frequencies <= high)].mean(axis=2) + 1e-20)
                for low, high in _covering(bands.values(), frequencies)
            ]
        )
    power = np.concatenate([np.concatenate(chunk, axis=1) for chunk in chunks])
    return power.astype(np.float32), [f"{name} ({low}–{high} Hz)" for name, (low, high) in bands.items()]


def _covering(bands: Any, frequencies: Floats) -> Iterator[tuple[float, float]]:
    """The bands; one that contains no frequency of the window is widened to the nearest one."""
    for low, high in bands:
        nearest = frequencies[np.abs(frequencies - (low + high) / 2).argmin()]
        yield min(low, nearest), max(high, nearest)


def _per_subject(
    features: Floats, labels: Integers, subjects: Integers, is_test: np.ndarray, predict: Predict
) -> Integers:
    """Labels of the test segments; a subject without two training classes gets the decoder of all others."""
    predicted = np.empty(int(is_test.sum()), dtype=np.int64)
    for subject in np.unique(subjects[is_test]):
        own = ~is_test & (subjects == subject)
        fitted_on = own if len(np.unique(labels[own])) > 1 else ~is_test
        chosen = is_test & (subjects == subject)
        predicted[subjects[is_test] == subject] = predict(features[fitted_on], labels[fitted_on], features[chosen])
    return predicted


def _nearest_mean(train: Floats, labels: Integers, test: Floats) -> Integers:
    from sklearn.neighbors import NearestCentroid

    return NearestCentroid().fit(train, labels).predict(test)


def _ridge(train: Floats, labels: Integers, test: Floats) -> Integers:
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    decoder = make_pipeline(StandardScaler(), RidgeClassifierCV(alphas=np.logspace(0, 6, 7)))
    return decoder.fit(train, labels).predict(test)


def _logistic(train: Floats, labels: Integers, test: Floats) -> Integers:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train, test = principal_components(train, test)
    decoder = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    return decoder.fit(train, labels).predict(test)


def _covariances(train: Floats, test: Floats, *, evoked: bool = True) -> tuple[Floats, Floats]:
    """Covariances of spatial principal components; with `evoked` ERP covariances (Barachant, Congedo 2014), whose
    template is the mean response.
    """
    try:
        from pyriemann.estimation import Covariances
    except ImportError as error:
        raise UserError(
            'the covariance baselines need pyriemann. Install it with: pip install "neuroimagen[baselines]".'
        ) from error
    mean = train.mean(axis=(0, 2), keepdims=True)
    train, test = (eeg.astype(np.float64) - mean for eeg in (train, test))
    spread = np.einsum("nct,ndt->cd", train, train) / (train.shape[0] * train.shape[2])
    directions = np.linalg.eigh(spread)[1][:, ::-1][:, : min(NUM_SPATIAL, train.shape[1])]
    train, test = (np.einsum("nct,ck->nkt", eeg, directions) for eeg in (train, test))
    estimator = Covariances(estimator="oas")
    if not evoked:
        return estimator.transform(train), estimator.transform(test)
    template = train.mean(axis=0)
    # One template for all classes keeps the matrices small: with one per class, 40 classes make them 40 times larger.
    augmented = (np.concatenate([np.broadcast_to(template, eeg.shape), eeg], axis=1) for eeg in (train, test))
    first, second = augmented
    return estimator.transform(first), estimator.transform(second)


def _riemann_mdm(train: Floats, labels: Integers, test: Floats) -> Integers:
    covariances, test_covariances = _covariances(train, test)
    from pyriemann.classification import MDM

    return MDM(metric="riemann").fit(covariances, labels).predict(test_covariances)


def _riemann_tangent(train: Floats, labels: Integers, test: Floats, *, evoked: bool = True) -> Integers:
    covariances, test_covariances = _covariances(train, test, evoked=evoked)
    from pyriemann.tangentspace import TangentSpace

    space = TangentSpace(metric="riemann").fit(covariances)
    return _logistic(space.transform(covariances), labels, space.transform(test_covariances))


def _riemann_power(train: Floats, labels: Integers, test: Floats) -> Integers:
    return _riemann_tangent(train, labels, test, evoked=False)
