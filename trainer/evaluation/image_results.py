"""Results from measured images: estimates with intervals, guessing, the ceiling, differences, figures per subject."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from neuroimagen.data_shards.common.arrays import Integers
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.evaluation.image_conditions import Measured
from neuroimagen.trainer.evaluation.intervals import Estimate, bootstrap_difference, bootstrap_mean
from neuroimagen.trainer.evaluation.metrics.registry import METRICS, main_metrics, metrics_of
from neuroimagen.trainer.evaluation.results import Result, find, p_result, result
from neuroimagen.trainer.evaluation.scoring.scoring import References, Scoring


def condition_results(condition: str, measured: Measured, scoring: Scoring) -> list[Result]:
    """The figures of a condition: means over segments with intervals over stimuli, figures of the set, p-values."""
    estimates = {
        name: _mean(name, values, measured.stimuli, scoring) for name, values in measured.values.items()
    } | measured.sets
    results = [
        result(condition, name, estimates[name], _define(name, scoring, estimates[name].n))
        for name in METRICS
        if name in estimates and estimates[name].n
    ]
    return results + [p_result(condition, name, p, n=len(measured.stimuli)) for name, p in measured.p_values.items()]


def reference_results(dataset: Dataset, scoring: Scoring | None) -> list[Result]:
    """Guessing, in every metric where that has a figure, and the simulated study's ceiling.

    `scoring`: None for a run without images; then guessing has the accuracy of the data set's classes alone.
    """
    results = [] if scoring is None else _guessing(scoring)
    num_classes = dataset.metadata.num_classes
    if scoring is None or num_classes != scoring.n_way:
        n = len(dataset.rows("test")) if scoring is None else len(scoring.references.stimuli)
        guess = Estimate(value=1 / num_classes, low=None, high=None, n=n)
        results.append(result("chance_eeg", "accuracy", guess, f"guessing one class of {num_classes}"))
    return results + _ceiling(dataset)


def _guessing(scoring: Scoring) -> list[Result]:
    n = len(scoring.references.stimuli)
    results = []
    for name, metric in metrics_of(scoring).items():
        chance = metric.chance(scoring) if metric.chance is not None else None
        if chance is not None:
            guess = Estimate(value=chance, low=None, high=None, n=n)
            results.append(result("chance", name, guess, f"guessing: {_define(name, scoring, n)}"))
    return results


def _ceiling(dataset: Dataset) -> list[Result]:
    results = []
    ceiling = dataset.metadata.provenance.get("study", {}).get("ceiling")
    if ceiling is not None:  # only of a simulated study; that of a real one is unknown
        results.append(
            Result(
                condition="ceiling",
                metric="accuracy",
                value=float(ceiling["accuracy"]),
                low=float(min(ceiling["achievable"], ceiling["accuracy"])),
                high=float(ceiling["accuracy"]),
                n=int(ceiling["num_draws"]),
                definition="no decoder of the class from one segment can be better in expectation, by Monte Carlo from "
                "the true parameters of the forward model; low is what a decoder that knows them reaches (no interval)",
            )
        )
    return results


def difference_results(
    measured: Mapping[str, Measured], results: Sequence[Result], scoring: Scoring, *, headline: str = "full"
) -> list[Result]:
    """Differences of two conditions on the segments that both were drawn for, paired over stimuli; and the headline's
    share of the ceiling.
    """
    differences: list[Result] = []
    for name, other, difference in _compared(measured, headline):
        differences += _paired(name, other, difference, measured, scoring)
    ceiling, accuracy = find(results, "ceiling", "accuracy"), find(results, headline, "accuracy")
    if ceiling and accuracy:

        def share(value: float | None) -> float | None:
            return None if value is None else value / ceiling.value

        differences.append(
            Result(
                condition=over_ceiling(headline),
                metric="accuracy",
                value=accuracy.value / ceiling.value,
                low=share(accuracy.low),
                high=share(accuracy.high),
                n=accuracy.n,
                definition=f"the accuracy of {headline} divided by the ceiling accuracy"
                if headline != "full"
                else "the model's accuracy divided by the ceiling accuracy",
            )
        )
    return differences


def over_ceiling(headline: str) -> str:
    """What the table calls the headline's share of the ceiling."""
    return "full_over_ceiling" if headline == "full" else "headline_over_ceiling"


def _compared(measured: Mapping[str, Measured], headline: str) -> list[tuple[str, str, str]]:
    """(condition, the one it is compared with, the table's name of the difference)."""
    # The gain from the saliency map is that of a model without the image embedding, which holds layout too.
    with_map = "neuroimagen" if "neuroimagen" in measured else "full"
    wanted = [
        (headline, "neuroimagen", "headline_minus_neuroimagen"),
        (headline, "full", "headline_minus_full"),
        (with_map, "semantic_only", f"{with_map}_minus_semantic_only"),
        ("full_vae_latent", "full", "full_vae_latent_minus_full"),
        ("full", "full_no_prior", "full_minus_full_no_prior"),
    ]
    return [item for item in wanted if item[0] != item[1] and item[0] in measured and item[1] in measured]


def _paired(
    name: str, other_name: str, difference: str, measured: Mapping[str, Measured], scoring: Scoring
) -> list[Result]:
    model, other = measured[name], measured[other_name]
    places, other_places = model.places(set(other.segments)), other.places(set(model.segments))
    differences = []
    for metric_name, metric in metrics_of(scoring).items():
        if "difference" not in metric.groups or metric_name not in model.values or metric_name not in other.values:
            continue
        estimate = bootstrap_difference(
            model.values[metric_name][places],
            model.stimuli[places],
            other.values[metric_name][other_places],
            other.stimuli[other_places],
            seed=scoring.config.seed,
            num_resamples=scoring.config.num_resamples,
        )
        if estimate.n:
            definition = _define(metric_name, scoring, estimate.n)
            text = f"{name} minus {other_name}, stimuli resampled together; {definition}"
            differences.append(result(difference, metric_name, estimate, text))
    return differences


def subject_figures(
    measured: Mapping[str, Measured], scoring: Scoring, *, headline: str = "full"
) -> list[dict[str, Any]]:
    """The headline's figures in the main table's metrics for each subject, as JSON values."""
    if headline not in measured:
        return []
    model = measured[headline]
    entries: list[dict[str, Any]] = []
    for subject in np.unique(model.subjects):
        chosen = model.subjects == subject
        for name in main_metrics():
            if name not in model.values:
                continue
            estimate = _mean(name, model.values[name][chosen], model.stimuli[chosen], scoring)
            if estimate.n:
                entries.append({"subject": int(subject), "metric": name, **vars(estimate)})
    return entries


def confusion(predicted: Integers, stimuli: Integers, references: References, *, num_classes: int) -> list[list[int]]:
    """Number of segments by true class (row) and class that the image is recognised as (column).

    `predicted` [n]: class of each segment's image; `stimuli` [n]: its stimulus's place among the references.
    """
    matrix = np.zeros((num_classes, num_classes), dtype=int)
    np.add.at(matrix, (references.labels[stimuli], predicted), 1)
    return matrix.tolist()


def _mean(name: str, values: np.ndarray, stimuli: np.ndarray, scoring: Scoring) -> Estimate:
    return bootstrap_mean(
        values,
        stimuli,
        is_share=METRICS[name].is_share,
        seed=scoring.config.seed,
        num_resamples=scoring.config.num_resamples,
    )


def _define(name: str, scoring: Scoring, n: int) -> str:
    return METRICS[name].define({**scoring.numbers, "n_images": n})
