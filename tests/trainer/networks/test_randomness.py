"""Random numbers do not depend on the number of ranks or on what came before."""

import numpy as np
import pytest
import torch
from scipy import stats

from neuroimagen.trainer.networks.randomness import (
    SampleDropout,
    StepRandom,
    derive_seed,
    hash_to_24_bits,
    reseed_dropout,
)

CPU = torch.device("cpu")


def draws(num_ranks: int, step: int = 5) -> torch.Tensor:
    parts = []
    for rank in range(num_ranks):
        first, last = 12 * rank // num_ranks, 12 * (rank + 1) // num_ranks
        random = StepRandom(7, step, first=first, count=last - first, device=CPU)
        parts.append(torch.cat([random.normal("z", 3), random.uniform("u", 2)], dim=1))
    return torch.cat(parts)


def test_draws_are_the_same_on_any_number_of_ranks() -> None:
    assert torch.equal(draws(1), draws(3))
    assert torch.equal(draws(1), draws(5))  # 12 samples over 5 ranks: uneven parts
    assert not torch.equal(draws(1), draws(1, step=6))


def test_purposes_do_not_share_numbers() -> None:
    random = StepRandom(7, 0, first=0, count=4, device=CPU)
    assert not torch.equal(random.normal("a", 8), random.normal("b", 8))
    assert torch.equal(random.normal("a", 8), random.normal("a", 8))


def test_counters_are_hashed_by_splitmix64() -> None:
    """Against its definition in whole numbers (Steele et al. 2014), the upper 24 of its 64 bits."""

    def splitmix64(counter: int) -> int:
        z = counter * 0x9E3779B97F4A7C15 % 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return (z ^ (z >> 31)) >> 40

    # Reference output for seed 0: the state is advanced before it is mixed.
    assert splitmix64(1) == 0xE220A8397B1DCDAF >> 40
    counters = [0, 1, 2, 12345, 2**55 - 1, 2**55 + 17, *np.random.default_rng(0).integers(0, 2**56, 200).tolist()]
    assert hash_to_24_bits(torch.tensor(counters)).tolist() == [splitmix64(counter) for counter in counters]


def test_a_sample_keeps_its_numbers_in_a_batch_of_any_size() -> None:
    """Far down a large global batch, where only this rank's samples are made."""
    few = StepRandom(7, 3, first=10**6, count=3, device=CPU)
    more = StepRandom(7, 3, first=10**6 - 2, count=8, device=CPU)
    assert torch.equal(few.normal("noise", 4, 8, 8), more.normal("noise", 4, 8, 8)[2:5])
    assert torch.equal(few.uniform("timestep"), more.uniform("timestep")[2:5])


def test_draws_have_their_distributions() -> None:
    """Kolmogorov and Smirnov's test of 2^18 draws, and no correlation between neighbours, samples or purposes."""
    random = StepRandom(11, 0, first=5, count=1024, device=CPU)
    normal, uniform = random.normal("z", 256).double(), random.uniform("u", 256).double()
    assert stats.kstest(normal.flatten().numpy(), "norm").pvalue > 1e-3
    assert stats.kstest(uniform.flatten().numpy(), "uniform").pvalue > 1e-3
    assert 0 <= uniform.min() < 1e-4
    assert 1 - 1e-4 < uniform.max() < 1
    centred, other = normal - normal.mean(), random.normal("other", 256).double()
    for first, second in (
        (centred[:, :-1], centred[:, 1:]),
        (centred[:-1], centred[1:]),
        (centred, other),
        (centred.square() - 1, other.square() - 1),
    ):
        pair = torch.stack([first.flatten(), second.flatten()])
        assert abs(torch.corrcoef(pair)[0, 1]) < 4 / pair.shape[1] ** 0.5


def test_normal_draws_are_symmetric_and_finite() -> None:
    """The ends of the 24 bits: 5.42 standard deviations, where float64's inverse of the distribution has them."""
    bits = torch.tensor([0, 1, 2**23 - 1, 2**23, 2**24 - 2, 2**24 - 1])
    random = StepRandom(0, 0, first=0, count=len(bits), device=CPU)
    random._draw = lambda purpose, shape: bits  # type: ignore[method-assign]
    drawn = random.normal("z").double().numpy()
    assert drawn == pytest.approx(stats.norm.ppf((bits.numpy() + 0.5) / 2**24), rel=1e-5)
    assert (drawn == -drawn[::-1]).all()


def test_derived_seeds_differ_and_are_stable() -> None:
    assert derive_seed(0, "contrastive") == derive_seed(0, "contrastive")
    assert len({derive_seed(seed, name) for seed in range(50) for name in ("a", "b")}) == 100
    assert 0 <= derive_seed("x") < 2**63


def test_dropout_is_the_same_on_any_number_of_ranks() -> None:
    x = torch.ones(10, 4, 50)
    network = torch.nn.Sequential(SampleDropout(0.25), SampleDropout(0.5))

    def run(num_ranks: int, step: int) -> torch.Tensor:
        parts = []
        for rank in range(num_ranks):
            first, last = 10 * rank // num_ranks, 10 * (rank + 1) // num_ranks
            reseed_dropout(network, StepRandom(1, step, first=first, count=last - first, device=CPU))
            parts.append(network(x[first:last]))
        return torch.cat(parts)

    assert torch.equal(run(1, 0), run(3, 0))
    assert not torch.equal(run(1, 0), run(1, 1))
    network.eval()
    assert torch.equal(network(x), x)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean(p: float) -> None:
    dropout = SampleDropout(p)
    kept = []
    for step in range(20):
        dropout.reseed(derive_seed(step) >> 8, 0)
        kept.append(dropout(torch.ones(64, 256)))
    values = torch.stack(kept)
    # 327,680 draws: three standard deviations of the share of zeros.
    assert abs((values == 0).float().mean().item() - p) < 3 * (p * (1 - p) / values.numel()) ** 0.5
    assert values.mean().item() == pytest.approx(1.0, abs=0.02)
    # No feature and no sample is dropped more often than chance allows.
    assert (values == 0).float().mean(dim=(0, 1)).std().item() < 1.5 * (p * (1 - p) / (20 * 64)) ** 0.5


def test_dropout_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="dropout"):
        SampleDropout(1.0)
