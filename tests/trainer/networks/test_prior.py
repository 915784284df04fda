"""The prior: sampling against closed forms, statistics, export; and a trained one on a Gaussian toy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.networks.prior import NUM_TIMESTEPS, PriorModel

MIXING = torch.tensor([[1.0, 0.5], [-0.5, 2.0], [0.3, 0.0]])
STD = 0.5


def model(**changes: Any) -> PriorModel:
    settings: dict[str, Any] = {
        **{"kind": "image", "condition_kind": "image", "embedding_size": 3, "condition_size": 2},
        **{"network": "mlp", "network_settings": {"sizes": (16, 8), "time_size": 8, "dropout": 0.0}},
        **{"prediction": "epsilon", "sampling_steps": 20, "guidance": 1.0, **changes},
    }
    torch.manual_seed(0)
    return PriorModel(**settings)


class Exact(nn.Module):
    """The best prediction where x given c is normal with mean MIXING · c (0 without c) and deviation STD."""

    def __init__(self, prediction: str) -> None:
        super().__init__()
        self.prediction = prediction
        self.alphas = (1 - torch.linspace(1e-4, 2e-2, NUM_TIMESTEPS, dtype=torch.float64)).cumprod(0)

    def forward(self, noisy: Tensor, timesteps: Tensor, condition: Tensor, dropped: Tensor) -> Tensor:
        alpha = self.alphas[timesteps][:, None]
        mean = torch.where(dropped[:, None], 0.0, condition.double() @ MIXING.double().T)
        noise = (1 - alpha).sqrt() * (noisy - alpha.sqrt() * mean) / (alpha * STD**2 + 1 - alpha)
        clean = (noisy - (1 - alpha).sqrt() * noise) / alpha.sqrt()
        return noise if self.prediction == "epsilon" else clean


@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
@pytest.mark.parametrize("guidance", [0.0, 1.0, 3.0])
def test_samples_of_a_perfect_network_have_the_conditional_distribution(prediction: str, guidance: float) -> None:
    """Guidance g moves the mean of a Gaussian to u + g · (c − u), and leaves its deviation."""
    prior = model(prediction=prediction)
    prior.network = Exact(prediction)
    condition = torch.tensor([[1.0, -1.0]]).expand(4000, 2)
    noise = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0))
    found = prior.sample(condition, noise, steps=200, guidance=guidance)
    expected = guidance * MIXING @ condition[0]
    torch.testing.assert_close(found.mean(0), expected.float(), atol=0.05, rtol=0.02)
    torch.testing.assert_close(found.std(0), torch.full((3,), STD), atol=0.03, rtol=0)


def test_sampling_is_a_function_of_row_and_noise() -> None:
    prior = model(guidance=3.0).eval()
    condition, noise = torch.randn(5, 2), torch.randn(5, 3)
    first = prior.sample(condition, noise)
    assert torch.equal(prior.sample(condition, noise), first)
    for row in range(5):
        alone = prior.sample(condition[row : row + 1], noise[row : row + 1])
        torch.testing.assert_close(alone[0], first[row], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(prior.sample(condition, -noise), first)
    assert not torch.allclose(prior.sample(condition, noise, guidance=1.0), first)
    torch.testing.assert_close(prior.sample(condition, noise, steps=20, guidance=3.0), first)
    for steps in (0, 1001):
        with pytest.raises(UserError, match=f"1 to 1000 steps, not in {steps}"):
            prior.sample(condition, noise, steps=steps)


class Store:
    """Targets by stimulus; the last entry never varies."""

    targets = torch.tensor([[1.0, 0.0, 2.0], [3.0, 0.5, 2.0], [5.0, 6.0, 2.0]])

    def get(self, stimuli: np.ndarray) -> Tensor:
        return self.targets[torch.from_numpy(stimuli)]


def test_embeddings_are_standardised_and_samples_keep_within_the_targets() -> None:
    prior = model()
    prior.fit_targets(Store(), np.array([0, 0, 1, 2]))  # type: ignore[arg-type]
    prior.fit_conditions(torch.tensor([[1.0, 4.0], [3.0, 4.0]]))
    standardised = prior.standardised(Store.targets)
    expected = Store.targets.numpy()
    expected = (expected - expected.mean(0)) / np.where(expected.std(0) > 0, expected.std(0), 1)
    np.testing.assert_allclose(standardised.numpy(), expected, atol=1e-6)
    assert float(prior.target_bound) == pytest.approx(np.abs(expected).max())
    assert prior.condition_mean.tolist() == [2.0, 4.0]
    assert prior.condition_std.tolist() == [1.0, 0.0]
    found = prior.sample(torch.randn(50, 2), torch.randn(50, 3))
    assert (found[:, 2] == 2.0).all()
    assert prior.standardised(found).abs().max() <= float(prior.target_bound) + 1e-5


@pytest.mark.parametrize("network", ["mlp", "transformer"])
def test_an_export_samples_the_same(network: str, tmp_path: Path) -> None:
    settings = {
        "mlp": {"sizes": (16, 8), "time_size": 8, "dropout": 0.1},
        "transformer": {"num_layers": 1, "num_heads": 2, "head_width": 4, "dropout": 0.1},
    }
    prior = model(network=network, network_settings=settings[network]).eval()
    prior.fit_targets(Store(), np.arange(3))  # type: ignore[arg-type]
    prior.save_pretrained(tmp_path)
    again = PriorModel.from_pretrained(tmp_path)
    assert (again.kind, again.condition_kind) == ("image", "image")
    condition, noise = torch.randn(2, 2), torch.randn(2, 3)
    assert torch.equal(again.sample(condition, noise), prior.sample(condition, noise))


def test_a_trained_prior_recovers_the_conditional_mean() -> None:
    """Sixteen numbers that are normal about a linear function of two, learnt in a few seconds."""
    size, steps = 16, 300
    mixing = torch.randn(size, 2, generator=torch.Generator().manual_seed(5))
    settings = {"sizes": (64, 32), "time_size": 16, "dropout": 0.0}
    prior = model(embedding_size=size, network_settings=settings, prediction="sample")
    optimizer = torch.optim.AdamW(prior.parameters(), lr=5e-3, weight_decay=0)
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        condition = torch.randn(128, 2, generator=generator)
        targets = condition @ mixing.T + STD * torch.randn(128, size, generator=generator)
        noise = torch.randn(128, size, generator=generator)
        timesteps = torch.randint(0, NUM_TIMESTEPS, (128,), generator=generator)
        dropped = torch.zeros(128, dtype=torch.bool)
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - step / steps)
        predicted = prior(prior.noised(targets, noise, timesteps), timesteps, condition, dropped)
        optimizer.zero_grad()
        (predicted - targets).square().mean().backward()
        optimizer.step()
    prior.eval()
    points = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.5]])
    found = prior.sample(points.repeat_interleave(50, 0), torch.randn(150, size, generator=generator))
    expected = points @ mixing.T
    assert (found.view(3, 50, size).mean(1) - expected).norm() < 0.15 * expected.norm()
