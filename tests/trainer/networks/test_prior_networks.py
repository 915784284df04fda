"""The networks of the prior: ATM's MLP against a transcription of its published layers, diffusers' transformer."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroimagen.trainer.networks.prior_networks import PriorMLP, PriorTokens
from neuroimagen.trainer.networks.randomness import SampleDropout, StepRandom, reseed_dropout

SIZES = (12, 8, 5)


def sinusoid(timesteps: Tensor, size: int) -> Tensor:
    """cos and sin of t / 10000^(k / half), k from 0 (Vaswani et al. 2017)."""
    frequencies = 10000.0 ** (-torch.arange(size // 2, dtype=torch.float64) / (size // 2))
    angles = timesteps.double()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def published(network: PriorMLP, noisy: Tensor, timesteps: Tensor, condition: Tensor | None) -> Tensor:
    """ATM's equations with the network's own numbers, in float64 and without a module of ours."""
    state = {name: tensor.double() for name, tensor in network.state_dict().items()}

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def block(x: Tensor, name: str) -> Tensor:
        x = linear(x, f"{name}.0")
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        x = x * state[f"{name}.1.weight"] + state[f"{name}.1.bias"]
        return x * torch.sigmoid(x)

    time = sinusoid(timesteps, 6)

    def level(x: Tensor, name: str) -> Tensor:
        hidden = linear(time, f"{name}.time.linear_1")
        x = x + linear(hidden * torch.sigmoid(hidden), f"{name}.time.linear_2")
        if condition is not None:
            x = x + linear(condition.double(), f"{name}.condition")
        return block(x, f"{name}.layers")

    first = block(noisy.double(), "enter")
    second = level(first, "down.0")
    bottom = level(second, "down.1")
    back = level(bottom, "up.0") + second
    return linear(level(back, "up.1") + first, "leave")


def test_the_mlp_is_atm_s() -> None:
    torch.manual_seed(0)
    network = PriorMLP(embedding_size=7, condition_size=4, sizes=SIZES, time_size=6, dropout=0.3).eval()
    noisy, condition, timesteps = torch.randn(3, 7), torch.randn(3, 4), torch.tensor([0, 17, 999])
    kept = torch.zeros(3, dtype=torch.bool)
    found = network(noisy, timesteps, condition, kept)
    torch.testing.assert_close(found.double(), published(network, noisy, timesteps, condition), rtol=1e-4, atol=1e-5)
    without = network(noisy, timesteps, condition, ~kept)
    torch.testing.assert_close(without.double(), published(network, noisy, timesteps, None), rtol=1e-4, atol=1e-5)


def built(kind: str, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(1)
    if kind == "mlp":
        return PriorMLP(embedding_size=6, condition_size=4, sizes=SIZES, time_size=6, dropout=dropout)
    return PriorTokens(embedding_size=6, condition_size=4, num_layers=2, num_heads=2, head_width=4, dropout=dropout)


@pytest.mark.parametrize("kind", ["mlp", "transformer"])
def test_a_row_s_condition_is_dropped_alone(kind: str) -> None:
    network = built(kind).eval()
    noisy, timesteps = torch.randn(4, 6), torch.tensor([1, 50, 500, 900])
    first, second = torch.randn(4, 4), torch.randn(4, 4)
    dropped = torch.tensor([True, False, True, False])
    found, other = (network(noisy, timesteps, condition, dropped) for condition in (first, second))
    assert torch.equal(found[dropped], other[dropped])
    assert not torch.allclose(found[~dropped], other[~dropped])
    kept = network(noisy, timesteps, first, torch.zeros(4, dtype=torch.bool))
    torch.testing.assert_close(found[~dropped], kept[~dropped])
    assert not torch.allclose(found[dropped], kept[dropped])


def test_the_transformer_is_diffusers_own() -> None:
    """Weights of a PriorTransformer give its numbers."""
    from diffusers import PriorTransformer

    network = built("transformer", dropout=0.2).eval()
    assert isinstance(network, PriorTokens)
    settings = {"num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 2, "embedding_dim": 6}
    plain = PriorTransformer(
        **settings, embedding_proj_dim=4, num_embeddings=0, additional_embeddings=4, encoder_hid_proj_type=None
    ).eval()
    plain.load_state_dict(network.transformer.state_dict())
    noisy, timesteps, condition = torch.randn(3, 6), torch.tensor([3, 30, 300]), torch.randn(3, 4)
    expected = plain(noisy, timesteps, condition).predicted_image_embedding
    torch.testing.assert_close(network(noisy, timesteps, condition, torch.zeros(3, dtype=torch.bool)), expected)


@pytest.mark.parametrize("kind", ["mlp", "transformer"])
def test_dropout_is_the_samples_own(kind: str) -> None:
    """Half of a batch gets the masks that it has within the whole."""
    network = built(kind, dropout=0.5).train()
    assert any(isinstance(module, SampleDropout) and module.p == 0.5 for module in network.modules())
    assert not any(isinstance(module, nn.Dropout) for module in network.modules())
    noisy, timesteps, condition = torch.randn(4, 6), torch.tensor([1, 50, 500, 900]), torch.randn(4, 4)
    kept = torch.zeros(4, dtype=torch.bool)
    cpu = torch.device("cpu")
    reseed_dropout(network, StepRandom(0, 0, first=0, count=4, device=cpu))
    whole = network(noisy, timesteps, condition, kept)
    reseed_dropout(network, StepRandom(0, 0, first=2, count=2, device=cpu))
    half = network(noisy[2:], timesteps[2:], condition[2:], kept[2:])
    torch.testing.assert_close(half, whole[2:])
    assert F.mse_loss(whole, network.eval()(noisy, timesteps, condition, kept)) > 1e-4
