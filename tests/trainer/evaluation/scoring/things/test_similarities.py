"""Correlations with the stimuli, and networks that are loaded when they are used."""

import numpy as np
import torch
from smooth_images import random_images
from tiny_things import tiny_network, tiny_networks

from neuroimagen.trainer.evaluation.scoring.things.similarities import Similarities, ThingsNetworks


def test_they_are_the_correlations_of_np_corrcoef() -> None:
    stimuli, images = random_images(0, num=7, height=32, width=32), random_images(1, num=9, height=32, width=32)
    found = Similarities(tiny_networks(), stimuli).of("alexnet", images)
    assert list(found) == ["alexnet2", "alexnet5"]
    for layer, similarity in found.items():
        network = tiny_network("alexnet", batch_size=20)
        real, drawn = (next(network.layers(pixels))[layer].numpy() for pixels in (stimuli, images))
        np.testing.assert_allclose(similarity, np.corrcoef(real, drawn)[:7, 7:].T, atol=1e-5)


def test_a_network_is_loaded_once_and_only_when_it_is_used() -> None:
    loaded: list[str] = []

    def load(name: str):
        loaded.append(name)
        return tiny_network(name)

    stimuli = random_images(0, num=3, height=32, width=32)
    similarities = Similarities(ThingsNetworks({"clip": "c", "swav": "s"}, load), stimuli)
    assert loaded == []
    first = similarities.of("swav", stimuli)["swav"]
    again = similarities.of("swav", stimuli)["swav"]
    assert loaded == ["swav"]
    assert np.array_equal(first, again)
    assert np.allclose(np.diag(first), 1, atol=1e-5)
    assert torch.is_tensor(next(tiny_network("clip").layers(stimuli))["clip"])
