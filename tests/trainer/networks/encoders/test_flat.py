"""UBP's flat projection: it reads all channels and samples, and has as many parameters as the paper's layers."""

import torch
from published_encoders import ubp

from neuroimagen.trainer.networks.encoders.eeg_encoder import build_encoder
from neuroimagen.trainer.networks.encoders.registry import encoder_config


def test_the_features_are_ubp_s_equations() -> None:
    torch.manual_seed(0)
    encoder = build_encoder(encoder_config("flat", feature_size=24), n_channels=5, n_samples=40)
    encoder.fit_normalisation([3.0 + torch.randn(64, 5, 40)])
    encoder.eval()
    eeg = 3.0 + torch.randn(4, 5, 40)
    white = (encoder.whitening @ (eeg - encoder.channel_mean[:, None])).double().numpy()
    weights = {name: value.double().numpy() for name, value in encoder.trunk.state_dict().items()}
    expected = torch.from_numpy(ubp(white, weights)).float()
    assert torch.allclose(encoder(eeg), expected, atol=1e-5)
    assert not torch.allclose(encoder(eeg[:, :, torch.arange(39, -1, -1)]), expected, atol=0.1)


def test_the_defaults_are_ubp_s_sizes() -> None:
    encoder = build_encoder(encoder_config("flat"), n_channels=17, n_samples=250)
    assert sum(p.numel() for p in encoder.parameters()) == 1024 * (17 * 250 + 1) + 1024 * 1025 + 2 * 1024
    assert encoder.config["encoder"]["dropout"] == 0.3
