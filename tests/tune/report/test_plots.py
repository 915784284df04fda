"""The plots of a search's page: their labels, and when there is none."""

import dataclasses
import re
from pathlib import Path

import pytest
from recorded_search import confirmation_records, margin_records, margin_search, pareto_records, pareto_search, store

from neuroimagen.trainer.recipe.recipe import Recipe
from neuroimagen.tune.records import SearchFolder
from neuroimagen.tune.report import plots
from neuroimagen.tune.report.result import Result, read_result


def labels(svg: str) -> list[str]:
    return re.findall(r">([^<>\n]+)</text>", svg)


@pytest.fixture
def margin_result(tmp_path: Path) -> Result:
    folder = SearchFolder(tmp_path / "margin")
    store(folder, margin_search(), [*margin_records(), *confirmation_records([0.8, 0.9], [0.5, 0.6])])
    return read_result(folder, margin_search(), Recipe(), num_stimuli=400)


def test_a_logarithmic_axis_names_its_ends_and_its_middle(margin_result: Result) -> None:
    found = labels(plots.slices_svg(margin_result))
    assert found[:3] == ["0.05", "0.3162", "2"]  # matplotlib's own labels of one or two decades overlap
    assert {"cosine", "euclidean", "margin", "distance"} <= set(found)


def test_a_comparison_has_a_plot_for_each_objective(margin_result: Result) -> None:
    assert {"default", "best", "knn accuracy"} <= set(labels(plots.comparison_svg(margin_result.comparisons)))


def test_trials_that_report_once_have_no_curves(margin_result: Result) -> None:
    curves = plots.curves_svg(margin_result)
    assert curves is not None
    assert "steps" in labels(curves)
    once = [dataclasses.replace(record, curve=record.curve[-1:]) for record in margin_result.records]
    assert plots.curves_svg(dataclasses.replace(margin_result, records=once)) is None


def test_a_pareto_front_has_the_two_objectives_as_axes(tmp_path: Path) -> None:
    folder = SearchFolder(tmp_path / "pareto")
    store(folder, pareto_search(), pareto_records())
    svg = plots.pareto_svg(read_result(folder, pareto_search(), Recipe(), num_stimuli=400))
    assert {"ssim", "two way clip"} <= set(labels(svg))
