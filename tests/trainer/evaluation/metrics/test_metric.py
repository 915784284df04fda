"""What a metric declares."""

import numpy as np
import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.evaluation.metrics.metric import ImageMetric, Metric


def test_a_definition_is_filled_in_or_the_words_it_may_use_are_named() -> None:
    metric = Metric(title="edges", definition="of {n_images} images at {size} px")
    assert metric.define({"size": 64, "n_images": 7, "clip": "x"}) == "of 7 images at 64 px"
    with pytest.raises(UserError, match=r"'edges'.*among clip, n_images"):
        metric.define({"n_images": 7, "clip": "x"})
    with pytest.raises(UserError, match="'edges'"):
        Metric(title="edges", definition="of {} images").define({})


def test_the_range_follows_from_the_scale() -> None:
    assert Metric(title="t", definition="d", scale="share").range == (0.0, 1.0)
    assert Metric(title="t", definition="d", scale="p").range == (0.0, 1.0)
    assert Metric(title="t", definition="d").range == (-np.inf, np.inf)
    assert Metric(title="t", definition="d", bounds=(-1.0, 1.0)).range == (-1.0, 1.0)


def test_a_search_raises_its_objective() -> None:
    with pytest.raises(ValueError, match="cannot be searchable"):
        ImageMetric(title="t", definition="d", higher_is_better=False, searchable=True, compute=lambda comparison: None)
