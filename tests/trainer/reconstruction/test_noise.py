"""Noise and random classes: functions of the seed, the purpose, the segment and the sample."""

import numpy as np
import pytest
import torch

from neuroimagen.trainer.reconstruction.noise import SegmentSample, normal_noise, other_stimuli, random_labels

SHAPE = (4, 8, 8)
ITEMS = [SegmentSample(row=row, sample=sample) for row in (3, 8, 11) for sample in (0, 1)]


def test_noise_is_exactly_the_segment_s_own() -> None:
    """Whatever the batch and the order; another sample, segment, seed or purpose has other noise."""
    noise = normal_noise(0, "diffusion", ITEMS, SHAPE)
    assert (noise.shape, noise.dtype) == ((6, 4, 8, 8), torch.float32)
    for position, item in enumerate(ITEMS):
        assert torch.equal(normal_noise(0, "diffusion", [item], SHAPE)[0], noise[position])
    assert torch.equal(normal_noise(0, "diffusion", ITEMS[::-1], SHAPE), noise.flip(0))
    others = [normal_noise(1, "diffusion", ITEMS, SHAPE), normal_noise(0, "saliency", ITEMS, SHAPE)]
    assert torch.cat([noise, *others]).flatten(1).unique(dim=0).shape[0] == 18
    assert abs(float(noise.mean())) < 0.1
    assert float(noise.std()) == pytest.approx(1.0, abs=0.1)


def test_noise_is_that_of_earlier_versions() -> None:
    """Images of one seed stay the same from version to version."""
    first = normal_noise(0, "diffusion", [SegmentSample(row=3)], (4,))
    expected = torch.tensor([[0.24681468, 0.37015560, 1.45837176, -0.13216740]])
    torch.testing.assert_close(first, expected, rtol=1e-6, atol=1e-6)  # processors round their logarithms differently
    assert random_labels(0, ITEMS, range(12)) == [11, 10, 6, 4, 9, 3]


def test_random_classes_are_the_segment_s_own_and_all_of_them_come() -> None:
    labels = [4, 7, 9]
    drawn = random_labels(5, ITEMS, labels)
    assert random_labels(5, ITEMS[::-1], labels) == drawn[::-1]
    many = [label for seed in range(100) for label in random_labels(seed, ITEMS, labels)]
    assert set(many) == set(labels)
    assert many.count(7) / len(many) == pytest.approx(1 / 3, abs=0.07)


def test_another_stimulus_is_the_segment_s_own_draw_and_never_its_stimulus() -> None:
    stimuli = np.array([40, 7, 12, 30])
    own = np.array([7, 40, 12, 30, 7, 12])
    drawn = other_stimuli(5, ITEMS, own=own, stimuli=stimuli)
    assert drawn.tolist() == other_stimuli(5, ITEMS[::-1], own=own[::-1], stimuli=stimuli[::-1])[::-1].tolist()
    many = np.stack([other_stimuli(seed, ITEMS, own=own, stimuli=stimuli) for seed in range(300)])
    assert (many != own).all()
    for place, stimulus in enumerate(own):
        others, counts = np.unique(many[:, place], return_counts=True)
        assert set(others.tolist()) == set(stimuli.tolist()) - {int(stimulus)}
        assert counts.min() / 300 > 0.22  # a third each, 4 standard errors
    assert other_stimuli(0, ITEMS[:1], own=np.array([3]), stimuli=np.array([3, 9])).tolist() == [9]
