"""The LSTM encoder."""

import torch
from small_encoders import fitting_config

from neuroimagen.trainer.networks.encoders.base import EncoderConfig
from neuroimagen.trainer.networks.encoders.eeg_encoder import build_encoder


def config(kind: str, **changes: object) -> EncoderConfig:
    return fitting_config(kind, **{"feature_size": 24, "spatial_filters": 8, "temporal_filters": 12, **changes})


def test_a_rectified_lstm_s_features_are_cut_at_zero() -> None:
    torch.manual_seed(0)
    plain = build_encoder(config("lstm"), n_channels=5, n_samples=30)
    rectified = build_encoder(config("lstm", rectified=True), n_channels=5, n_samples=30)
    rectified.load_state_dict(plain.state_dict())
    eeg = torch.randn(6, 5, 30)
    assert (plain.eval()(eeg) < 0).any()
    assert torch.equal(rectified.eval()(eeg), plain(eeg).clamp_min(0))


def test_features_are_the_last_hidden_state_through_one_layer() -> None:
    torch.manual_seed(0)
    trunk = build_encoder(config("lstm", dropout=0.0), n_channels=5, n_samples=30).trunk
    eeg, mean, whitening = torch.randn(4, 5, 30), torch.randn(5), torch.randn(5, 5)
    outputs, _ = trunk.lstm((whitening @ (eeg - mean[:, None])).transpose(1, 2))
    assert torch.allclose(trunk(eeg, mean, whitening), trunk.head(outputs[:, -1]), atol=1e-6)
