"""Every registered metric through the same contract."""

import inspect

import numpy as np
import pytest
from tiny_things import with_things

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.evaluation.intervals import Estimate
from neuroimagen.trainer.evaluation.metrics import registry
from neuroimagen.trainer.evaluation.metrics.metric import ImageMetric, PermutationTest, SetMetric
from neuroimagen.trainer.evaluation.metrics.registry import METRICS, all_metrics, main_metrics, metric_of
from neuroimagen.trainer.evaluation.scoring.comparison import Comparison
from neuroimagen.trainer.evaluation.scoring.scoring import Scoring


@pytest.fixture(scope="module")
def comparison(scoring: Scoring) -> Comparison:
    """Each stimulus shown for the next one, twice for every segment; every network is there."""
    scoring = with_things(scoring)
    images = scoring.references.images
    columns = np.arange(2 * len(images)) // 2
    shown = np.roll(columns, 2)
    return Comparison(scoring, images, columns=columns, shown=shown, segments=columns)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_has_a_definition_a_heading_and_figures_within_its_range(name: str, comparison: Comparison) -> None:
    metric = METRICS[name]
    numbers = comparison.scoring.numbers
    definition = metric.define({**numbers, "n_images": 7})
    assert not set("{}") & set(definition)
    assert len(metric.title) <= 24
    low, high = metric.range
    if metric.chance is not None:
        chance = metric.chance(comparison.scoring)
        assert chance is not None
        assert low <= chance <= high
    if isinstance(metric, ImageMetric):
        values = metric.compute(comparison)
        assert values is not None
        assert values.shape == (len(comparison),)
        assert np.nanmin(values) >= low - 1e-6
        assert np.nanmax(values) <= high + 1e-6
    elif isinstance(metric, SetMetric):
        estimate = metric.compute(comparison)
        assert isinstance(estimate, Estimate)
        assert estimate.n == len(comparison)
        assert low <= estimate.value <= high
    elif isinstance(metric, PermutationTest):
        assert 0 < metric.compute(comparison) <= 1
    else:
        assert metric.groups.isdisjoint({"model", "ablation", "oracle", "floor"})


def test_the_lists_that_others_read() -> None:
    assert main_metrics() == ("accuracy", "ssim", "pixcorr", "two_way_clip", "within_class_two_way")
    assert list(registry.searchable_metrics()) == ["accuracy", "ssim", "pixcorr", "two_way_clip"]
    of_images = {name: metric for name, metric in all_metrics().items() if isinstance(metric, ImageMetric)}
    assert [name for name, metric in of_images.items() if metric.ranks_examples] == ["ssim", "pixcorr", "two_way_clip"]


def test_a_name_that_no_package_has_is_shown_under_its_name() -> None:
    assert metric_of("of_another_package").title == "of another package"
    assert metric_of("another_p").scale == "p"
    with pytest.raises(UserError, match="Did you mean 'ssim'"):
        METRICS["sism"]


def test_an_entry_point_that_is_no_metric_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "METRICS", type(METRICS)("metric", "g", {"edges": "numpy:pi"}))
    with pytest.raises(UserError, match=r"the metric 'edges' is a float, not a Metric"):
        all_metrics()


def test_no_module_of_a_metric_is_imported_to_list_the_names() -> None:
    source = inspect.getsource(registry)
    assert "import ssim" not in source
    assert len(METRICS.names()) >= 26
