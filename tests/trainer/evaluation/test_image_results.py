"""Results from measured images: guessing in every metric, differences, figures per subject, confusion."""

import numpy as np
import pytest
from simulated_run import Finished

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.evaluation.conditions import CONDITIONS
from neuroimagen.trainer.evaluation.image_conditions import Measured, measure
from neuroimagen.trainer.evaluation.image_results import (
    condition_results,
    confusion,
    difference_results,
    reference_results,
    subject_figures,
)
from neuroimagen.trainer.evaluation.metrics.registry import METRICS, main_metrics, metrics_of
from neuroimagen.trainer.evaluation.results import find
from neuroimagen.trainer.evaluation.scoring.scoring import Scoring
from neuroimagen.trainer.reconstruction.manifest import read_reconstructions


@pytest.fixture(scope="module")
def measured(finished: Finished, scoring: Scoring) -> dict[str, Measured]:
    reconstructions = read_reconstructions(finished.run)
    return {name: measure(name, reconstructions[name], scoring) for name in ("full", "semantic_only")}


def test_results_come_in_the_order_of_the_table_with_their_definitions(
    measured: dict[str, Measured], scoring: Scoring
) -> None:
    results = condition_results("full", measured["full"], scoring)
    names = [item.metric for item in results if item.metric not in measured["full"].p_values]
    assert names == [name for name in METRICS if name in names]
    full = measured["full"]
    assert {item.metric for item in results} == {*full.values, *full.sets, *full.p_values}
    for item in results:
        assert item.condition == "full"
        assert item.definition == METRICS[item.metric].define({**scoring.numbers, "n_images": item.n})
    accuracy = find(results, "full", "accuracy")
    assert accuracy is not None
    assert accuracy.value == pytest.approx(measured["full"].values["accuracy"].mean())


def test_guessing_has_a_figure_in_every_metric_that_says_so(finished: Finished, scoring: Scoring) -> None:
    results = reference_results(Dataset.open(finished.data), scoring)
    chances = {item.metric: item.value for item in results if item.condition == "chance"}
    assert set(chances) == {name for name, metric in metrics_of(scoring).items() if metric.chance is not None}
    assert all("reference" in metric.groups for metric in metrics_of(scoring).values() if metric.chance is not None)
    assert chances["accuracy"] == 1 / 12
    assert chances["accuracy_top5"] == 5 / 12
    assert chances["retrieval_top5"] == 5 / 12
    assert chances["within_class_top1"] == 0.5
    ceiling = find(results, "ceiling", "accuracy")
    assert ceiling is not None
    assert ceiling.value == 0.86


def test_differences_are_of_the_metrics_that_say_so(measured: dict[str, Measured], scoring: Scoring) -> None:
    differences = difference_results(measured, [], scoring)
    assert [item.metric for item in differences] == [
        name for name, metric in metrics_of(scoring).items() if "difference" in metric.groups
    ]
    for item in differences:
        full, other = (np.nanmean(measured[name].values[item.metric]) for name in ("full", "semantic_only"))
        assert item.value == pytest.approx(full - other)
    assert difference_results({"full": measured["full"]}, [], scoring) == []


def test_figures_per_subject_and_confusion_count_every_segment(measured: dict[str, Measured], scoring: Scoring) -> None:
    entries = subject_figures(measured, scoring)
    assert {(entry["subject"], entry["metric"]) for entry in entries} == {
        (subject, metric) for subject in (1, 2) for metric in main_metrics()
    }
    assert sum(entry["n"] for entry in entries if entry["metric"] == "ssim") == 24
    matrix = np.array(
        confusion(measured["full"].predicted, measured["full"].stimuli, scoring.references, num_classes=6)
    )
    assert matrix.sum() == 24
    assert matrix.sum(axis=1).tolist() == [4] * 6


def test_every_result_is_of_a_group_that_has_the_metric(finished: Finished) -> None:
    """A metric says which conditions have it; one that is missing there would be in no table that asks."""
    for item in finished.results:
        assert CONDITIONS[item.condition].group in METRICS[item.metric].groups, (item.condition, item.metric)
