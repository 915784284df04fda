"""Masked pre-training: the encoder does not see what is hidden."""

import torch

from neuroimagen.trainer.networks.encoders.registry import encoder_config
from neuroimagen.trainer.networks.masked import MaskedModel


def test_hidden_tokens_are_hidden() -> None:
    """What the encoder makes of the visible tokens does not depend on the others, but the error does."""
    torch.manual_seed(0)
    settings = encoder_config(kind="transformer", width=32, heads=2, depth=2, block_dropout=0.0)
    encoder = {"n_channels": 5, "n_samples": 42, "encoder": vars(settings)}
    model = MaskedModel(encoder=encoder, decoder_width=32, decoder_depth=1)
    trunk = model.trunk
    assert trunk.num_tokens == 10
    eeg = torch.randn(2, 5, 42)
    order = torch.stack([torch.randperm(10), torch.randperm(10)])
    changed = eeg.clone()
    for segment in range(2):
        for token in order[segment, 3:].tolist():
            changed[segment, :, 4 * token : 4 * token + 4] += 9.0
    mean, whitening = model.encoder.channel_mean, model.encoder.whitening
    seen = [trunk.encode(trunk.tokens(x, mean, whitening), order[:, :3]) for x in (eeg, changed)]
    assert torch.equal(seen[0], seen[1])
    assert (model(changed, order, 3) > model(eeg, order, 3) + 10).all()
    # Computing activations again in the backward pass changes no gradient.
    gradients = []
    for checkpointing in (False, True):
        trunk.checkpointing = checkpointing
        model.zero_grad()
        model(eeg, order, 3).mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
