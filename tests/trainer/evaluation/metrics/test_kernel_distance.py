"""KID and its jackknife error against torchmetrics and brute force."""

import numpy as np
import pytest
import torch

from neuroimagen.trainer.evaluation.metrics.kernel_distance import kernel_distance


def test_kernel_distance_agrees_with_torchmetrics_and_brute_force() -> None:
    from torchmetrics.image.kid import KernelInceptionDistance

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 6)), rng.normal(size=(30, 6)) + 0.3
    value, error = kernel_distance(x, y, feature_stimuli=np.arange(30), reference_stimuli=np.arange(30))
    reference = KernelInceptionDistance(feature=torch.nn.Flatten(1), subsets=1, subset_size=30, normalize=True)
    reference.set_dtype(torch.float64)
    reference.update(torch.from_numpy(x).view(-1, 3, 1, 2), real=True)
    reference.update(torch.from_numpy(y).view(-1, 3, 1, 2), real=False)
    assert value == pytest.approx(float(reference.compute()[0]), rel=1e-4)

    def mmd(a: np.ndarray, b: np.ndarray) -> float:
        def kernel(p: np.ndarray, q: np.ndarray) -> float:
            return (p @ q / 6 + 1) ** 3

        within = [np.mean([kernel(p, q) for i, p in enumerate(s) for j, q in enumerate(s) if i != j]) for s in (a, b)]
        return sum(within) - 2 * np.mean([kernel(p, q) for p in a for q in b])

    assert value == pytest.approx(mmd(x, y))
    left_out = np.array([mmd(np.delete(x, i, 0), np.delete(y, i, 0)) for i in range(30)])
    assert error == pytest.approx(np.sqrt(29 / 30 * ((left_out - left_out.mean()) ** 2).sum()))


def test_kernel_distance_leaves_out_the_images_of_a_stimulus_together() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(8, 4)), rng.normal(size=(4, 4))
    stimuli = np.repeat(np.arange(4), 2)
    _, error = kernel_distance(x, y, feature_stimuli=stimuli, reference_stimuli=np.arange(4))
    left_out = np.array(
        [
            kernel_distance(
                x[stimuli != s],
                np.delete(y, s, 0),
                feature_stimuli=stimuli[stimuli != s],
                reference_stimuli=np.delete(np.arange(4), s),
            )[0]
            for s in range(4)
        ]
    )
    assert error == pytest.approx(np.sqrt(3 / 4 * ((left_out - left_out.mean()) ** 2).sum()))
