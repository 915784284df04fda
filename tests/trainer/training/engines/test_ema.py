"""The moving average of weights, against its definition."""

import torch

from neuroimagen.trainer.training.engines.ema import EMA


def test_the_average_is_the_weighted_sum_of_the_steps() -> None:
    weights = [torch.randn(2, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(5)]
    average = EMA(weights, 0.9)
    expected = weights[0].double().clone()
    for step in range(1, 40):
        weights[0] += torch.randn(2, 3, generator=torch.Generator().manual_seed(step))
        average.update(weights, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weights[0].double()
    torch.testing.assert_close(average.weights[0].double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(average.weights[1], torch.zeros(5))


def test_shards_are_averaged_to_the_bits_of_the_whole() -> None:
    """At ZeRO 3 a rank averages a flat piece that begins anywhere: no element may depend on its neighbours."""
    start, later = (torch.randn(1003, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    whole = EMA([start], 0.9991)
    pieces = EMA(list(start.split(97)), 0.9991)
    for step in range(1, 5):
        whole.update([later], 10_000 * step)
        pieces.update(list(later.split(97)), 10_000 * step)
    assert torch.equal(torch.cat(pieces.weights), whole.weights[0])
