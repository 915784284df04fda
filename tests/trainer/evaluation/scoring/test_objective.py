"""The weighted mean of metrics, against arithmetic by hand."""

import numpy as np
import pytest

from neuroimagen.trainer.evaluation.scoring.objective import combined, combined_by_segment, unknown_metrics


def test_the_mean_over_segments_is_that_of_the_means() -> None:
    values = {"ssim": np.array([0.0, 0.5, 1.0]), "accuracy": np.array([1.0, 1.0, 0.0]), "other": np.zeros(3)}
    weights = {"ssim": 1.0, "accuracy": 3.0}
    assert combined_by_segment(values, weights) == pytest.approx([0.75, 0.875, 0.25])
    means = {name: float(value.mean()) for name, value in values.items()}
    assert combined(means, weights) == pytest.approx((0.5 + 3 * 2 / 3) / 4)
    assert combined_by_segment(values, weights).mean() == pytest.approx(combined(means, weights))


def test_a_metric_that_cannot_be_maximised_is_named() -> None:
    assert unknown_metrics(["ssim", "two_way_clip"]) is None
    message = unknown_metrics(["ssim", "fid"])
    assert message is not None
    assert message.startswith("there is no metric 'fid' to search for; choose among accuracy, ")
