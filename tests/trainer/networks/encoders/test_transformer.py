"""The transformer encoder: its tokens, its blocks, and which tokens reach them."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from neuroimagen.trainer.networks.encoders.registry import encoder_config
from neuroimagen.trainer.networks.encoders.transformer import Block, TransformerTrunk, run_blocks


def trunk(n_samples: int = 22, **settings: object) -> TransformerTrunk:
    torch.manual_seed(0)
    small = {"width": 16, "heads": 2, "depth": 2, "token_samples": 4, "dropout": 0.0, "block_dropout": 0.0}
    return TransformerTrunk(encoder_config("transformer", **small, **settings), n_channels=3, n_samples=n_samples)


def test_a_token_is_a_stretch_of_time_over_all_channels_and_the_rest_is_left_out() -> None:
    network = trunk()
    eeg, mean, whitening = torch.randn(2, 3, 22), torch.randn(3), torch.randn(3, 3)
    white = whitening @ (eeg - mean[:, None])
    tokens = network.tokens(eeg, mean, whitening)
    assert tokens.shape == (2, 5, 12)
    for number in range(5):
        assert torch.allclose(tokens[:, number], white[:, :, 4 * number : 4 * number + 4].flatten(1), atol=1e-6)
    changed = eeg.clone()
    changed[:, :, 20:] += 9.0  # behind the last whole token
    assert torch.equal(network(changed, mean, whitening), network(eeg, mean, whitening))


def test_a_block_is_pytorch_s_pre_norm_encoder_layer() -> None:
    torch.manual_seed(1)
    block = Block(16, 2, 0.0)
    layer = nn.TransformerEncoderLayer(16, 2, 64, dropout=0.0, activation=F.gelu, batch_first=True, norm_first=True)
    layer.load_state_dict(
        {
            **{f"self_attn.in_proj_{name}": value for name, value in block.qkv.state_dict().items()},
            **{f"self_attn.out_proj.{name}": value for name, value in block.out.state_dict().items()},
            **{f"norm1.{name}": value for name, value in block.norm_attention.state_dict().items()},
            **{f"norm2.{name}": value for name, value in block.norm_mlp.state_dict().items()},
            **{f"linear1.{name}": value for name, value in block.mlp[0].state_dict().items()},
            **{f"linear2.{name}": value for name, value in block.mlp[2].state_dict().items()},
        }
    )
    x = torch.randn(3, 7, 16)
    assert torch.allclose(block(x), layer(x), atol=1e-5)


def test_visible_tokens_keep_their_positions() -> None:
    network = trunk()
    tokens = torch.randn(2, 5, 12)
    order = torch.tensor([[4, 0, 2], [1, 3, 0]])
    embedded = (network.embed(tokens) + network.position).gather(1, order[:, :, None].expand(-1, -1, 16))
    expected = network.norm(run_blocks(network.blocks, embedded, checkpointing=False))
    assert torch.equal(network.encode(tokens, order), expected)
    every = torch.arange(5).expand(2, 5)
    assert torch.allclose(network.encode(tokens, every), network.encode(tokens), atol=1e-6)


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"encoder\.width 30 is no multiple of encoder\.heads 4"):
        encoder_config("transformer", width=30)
    with pytest.raises(ValueError, match=r"7 samples hold fewer than two tokens; lower encoder\.token_samples"):
        trunk(7)
