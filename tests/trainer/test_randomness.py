"""Random numbers do not depend on the number of ranks or on what came before."""

import pytest
import torch

from neuroimagen.trainer.randomness import SampleDropout, StepRandom, derive_seed, reseed_dropout

CPU = torch.device("cpu")


def draws(num_ranks: int, step: int = 5) -> torch.Tensor:
    parts = []
    for rank in range(num_ranks):
        first, last = 12 * rank // num_ranks, 12 * (rank + 1) // num_ranks
        random = StepRandom(7, step, first=first, count=last - first, total=12, device=CPU)
        parts.append(torch.cat([random.normal("z", 3), random.uniform("u", 2)], dim=1))
    return torch.cat(parts)


def test_draws_are_the_same_on_any_number_of_ranks() -> None:
    assert torch.equal(draws(1), draws(3))
    assert torch.equal(draws(1), draws(5))  # 12 samples over 5 ranks: uneven parts
    assert not torch.equal(draws(1), draws(1, step=6))


def test_purposes_do_not_share_numbers() -> None:
    random = StepRandom(7, 0, first=0, count=4, total=4, device=CPU)
    assert not torch.equal(random.normal("a", 8), random.normal("b", 8))
    assert torch.equal(random.normal("a", 8), random.normal("a", 8))


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
            reseed_dropout(network, StepRandom(1, step, first=first, count=last - first, total=10, device=CPU))
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
