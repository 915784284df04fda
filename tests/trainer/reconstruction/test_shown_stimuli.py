"""Stimuli, classes and cached embeddings of segments, against the data set's tables."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from neuroimagen.trainer.reconstruction.noise import SegmentSample
from neuroimagen.trainer.reconstruction.reconstructor import Reconstructor
from neuroimagen.trainer.reconstruction.shown_stimuli import ShownStimuli


@pytest.fixture
def reconstructor(make_image: Callable[..., Reconstructor]) -> Reconstructor:
    return make_image()


@pytest.fixture
def shown(reconstructor: Reconstructor) -> ShownStimuli:
    assert reconstructor.shown is not None
    return reconstructor.shown


def test_stimuli_of_segments(reconstructor: Reconstructor, shown: ShownStimuli) -> None:
    dataset, rows = reconstructor.dataset, np.array([23, 4])
    numbers = dataset.index.stimulus[rows]
    assert shown.numbers(rows).tolist() == numbers.tolist()
    assert shown.labels(rows) == dataset.stimuli.labels[numbers].tolist()
    images = dataset.stimuli.images(numbers, 16)
    torch.testing.assert_close(shown.images(rows, 16), torch.from_numpy(images) / 127.5 - 1)
    for label, caption in shown.class_captions.items():
        assert caption == dataset.stimuli.captions[dataset.stimuli.labels.tolist().index(label)]


def test_training_stimuli_count_once_each(reconstructor: Reconstructor, shown: ShownStimuli) -> None:
    dataset = reconstructor.dataset
    expected = sorted(set(dataset.index.stimulus[dataset.index.split == "train"].tolist()))
    assert shown.training.tolist() == expected
    mean = dataset.stimuli.images(np.array(expected), 32).astype(np.float64).mean(0) / 127.5 - 1
    np.testing.assert_allclose(shown.mean_image(32)[0].numpy(), mean, atol=1e-6)
    cached = reconstructor.allowed.stores()["image"].get(np.array(expected))
    torch.testing.assert_close(shown.mean_embedding("image")[0], cached.mean(0))


def test_another_stimulus_of_the_split(reconstructor: Reconstructor, shown: ShownStimuli) -> None:
    store = reconstructor.allowed.stores()["image"]
    rows = reconstructor.dataset.rows("test")
    items = [SegmentSample(row=int(row)) for row in rows]
    own = shown.embeddings("image", rows)
    torch.testing.assert_close(own, store.get(shown.numbers(rows)))
    other = shown.other_embeddings("image", items, seed=0, split="test")
    assert not torch.isclose(own, other).all(1).any()
    of_split = store.get(shown.of_split("test"))
    assert all(torch.isclose(of_split, embedding).all(1).any() for embedding in other)
