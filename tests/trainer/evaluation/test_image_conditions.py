"""Measuring the images of a condition: figures per segment, of the set, and those that a search uses."""

import numpy as np
import pytest
from simulated_run import Finished

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.evaluation.image_conditions import columns_of, image_size, measure, search_figures
from neuroimagen.trainer.evaluation.metrics.metric import IMAGES, ImageMetric, PermutationTest, SetMetric
from neuroimagen.trainer.evaluation.metrics.pixel_correlation import pixel_correlation
from neuroimagen.trainer.evaluation.metrics.registry import metrics_of
from neuroimagen.trainer.evaluation.scoring.scoring import Scoring
from neuroimagen.trainer.evaluation.scoring.structural_similarity import ssim
from neuroimagen.trainer.reconstruction.manifest import read_reconstructions


def test_every_metric_of_images_is_measured(finished: Finished, scoring: Scoring) -> None:
    found = read_reconstructions(finished.run)["full"]
    items: list[dict[str, object]] = []
    measured = measure("full", found, scoring, items=items)
    of_images = {name: metric for name, metric in metrics_of(scoring).items() if metric.groups >= IMAGES}

    def names(kind: type) -> set[str]:
        return {name for name, metric in of_images.items() if isinstance(metric, kind)}

    assert set(measured.values) == names(ImageMetric)
    assert set(measured.sets) == names(SetMetric)
    assert set(measured.p_values) == names(PermutationTest)
    assert len(measured.stimuli) == len(measured.subjects) == len(items) == len(found)
    assert set(items[0]) >= {"condition", "segment", "file", *measured.values}


def test_a_metric_is_measured_in_its_groups_only(
    finished: Finished, scoring: Scoring, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_model = ImageMetric(
        title="t", definition="d", groups=frozenset({"model"}), compute=lambda comparison: np.ones(len(comparison))
    )
    monkeypatch.setattr(
        "neuroimagen.trainer.evaluation.image_conditions.metrics_of", lambda _: {"only_model": only_model}
    )
    reconstructions = read_reconstructions(finished.run)
    assert set(measure("full", reconstructions["full"], scoring).values) == {"only_model"}
    assert measure("random_class", reconstructions["random_class"], scoring).values == {}


def test_search_figures_are_those_of_the_metrics(scoring: Scoring) -> None:
    references = scoring.references
    images, columns = np.roll(references.images, 1, axis=0), np.arange(len(references.images))
    found = search_figures(images, columns, scoring)
    assert set(found) == {"accuracy", "ssim", "pixcorr", "two_way_clip"}
    np.testing.assert_array_equal(found["ssim"], ssim(images, references.images))
    np.testing.assert_array_equal(found["pixcorr"], pixel_correlation(images, references.images))
    true = search_figures(references.images, columns, scoring)
    assert true["two_way_clip"].tolist() == [1.0] * len(columns)


def test_what_cannot_be_compared_is_refused(finished: Finished, scoring: Scoring) -> None:
    reconstructions = read_reconstructions(finished.run)
    assert image_size(reconstructions) == 32
    found = reconstructions["full"]
    assert columns_of(found, scoring.references).max() < len(scoring.references.keys)
    foreign = type(found)(**{**vars(found), "stimulus_keys": ("elsewhere", *found.stimulus_keys[1:])})
    with pytest.raises(UserError, match=r"1 of 24 images are not of test stimuli \(elsewhere"):
        columns_of(foreign, scoring.references)
