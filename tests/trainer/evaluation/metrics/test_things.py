"""The figures of THINGS papers against the protocol, written with NumPy and SciPy."""

import numpy as np
import pytest
from scipy.spatial import distance
from simulated_run import Finished
from tiny_things import tiny_network, with_things

from neuroimagen.trainer.evaluation.metrics.metric import ImageMetric
from neuroimagen.trainer.evaluation.metrics.registry import METRICS, main_metrics, metrics_of
from neuroimagen.trainer.evaluation.scoring.comparison import Comparison
from neuroimagen.trainer.evaluation.scoring.scoring import Scoring

TWO_WAY = {
    "things_alexnet2": ("alexnet", "alexnet2"),
    "things_alexnet5": ("alexnet", "alexnet5"),
    "things_inception": ("inception", "inception"),
    "things_clip": ("clip", "clip"),
}
DISTANCES = {"things_efficientnet": "efficientnet", "things_swav": "swav"}


def drawn(scoring: Scoring) -> np.ndarray:
    """A noisy picture of every stimulus; that of the last is constant."""
    images = scoring.references.images
    noise = np.random.default_rng(0).normal(scale=90, size=images.shape)
    pictures = np.clip(images + noise, 0, 255).astype(np.uint8)
    pictures[-1] = 128
    return pictures


def values(name: str, comparison: Comparison) -> np.ndarray:
    metric = METRICS[name]
    assert isinstance(metric, ImageMetric)
    found = metric.compute(comparison)
    assert found is not None
    return found


def test_two_way_identification_is_that_of_the_papers_script(finished: Finished, scoring: Scoring) -> None:
    scoring = with_things(scoring)
    images, stimuli = drawn(scoring), scoring.references.images
    number = len(stimuli)
    comparison = Comparison(scoring, images, columns=np.arange(number))
    shares = []
    for name, (network, layer) in TWO_WAY.items():
        tiny = tiny_network(network, batch_size=100)
        real, picture = (next(tiny.layers(pixels))[layer].numpy() for pixels in (stimuli, images))
        r = np.corrcoef(real, picture)[:number, number:]
        success = (r < np.diag(r)).sum(axis=0) / (number - 1)  # column by column: each picture with its own stimulus
        np.testing.assert_allclose(values(name, comparison), success, atol=1e-9)
        shares.append(success.mean())
    assert 0.5 < min(shares) < 1


def test_distances_are_scipys(finished: Finished, scoring: Scoring) -> None:
    scoring = with_things(scoring)
    images, stimuli = drawn(scoring)[[4, 0, 4]], scoring.references.images
    columns = np.array([4, 2, 1])
    comparison = Comparison(scoring, images, columns=columns)
    for name, network in DISTANCES.items():
        tiny = tiny_network(network, batch_size=100)
        picture, real = (next(tiny.layers(pixels))[network].numpy() for pixels in (images, stimuli[columns]))
        expected = [distance.correlation(a, b) for a, b in zip(real, picture, strict=True)]
        np.testing.assert_allclose(values(name, comparison), expected, atol=1e-5)
        assert not METRICS[name].higher_is_better
    same = Comparison(scoring, stimuli, columns=np.arange(len(stimuli)))
    assert values("things_swav", same).max() < 1e-5
    assert values("things_swav", same).min() >= 0


def test_a_picture_that_is_as_similar_to_others_is_not_identified(finished: Finished, scoring: Scoring) -> None:
    scoring = with_things(scoring)
    number = len(scoring.references.images)
    flat = np.full_like(scoring.references.images, 77)
    similarity = np.zeros((number, number), dtype=np.float32)
    comparison = Comparison(scoring, flat, columns=np.arange(number))
    comparison._in_things["clip"] = {"clip": similarity}
    assert values("things_clip", comparison).max() == 0


@pytest.mark.parametrize("names", [(), ("clip", "alexnet")])
def test_an_evaluation_has_the_metrics_of_the_networks_it_has(
    finished: Finished, scoring: Scoring, names: tuple[str, ...]
) -> None:
    assert not [name for name in metrics_of(scoring) if name.startswith("things_")]
    found = {name for name in metrics_of(with_things(scoring, names)) if name.startswith("things_")}
    of_networks = {"things_clip", "things_alexnet2", "things_alexnet5"} if names else set()
    assert found == {"things_pixcorr", "things_ssim"} | of_networks
    assert not [name for name in main_metrics() if name.startswith("things_")]
    definition = METRICS["things_clip"].define({**with_things(scoring).numbers, "n_images": 3})
    assert "other 11 test stimuli" in definition
    assert definition.endswith("(a tiny clip)")
