"""The linear encoder: windows against plain means, and that it is linear."""

import pytest
import torch

from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder, build_encoder
from neuroimagen.trainer.networks.encoders.registry import encoder_config

EEG = torch.randn(40, 5, 60, generator=torch.Generator().manual_seed(0)) + 3.0


def fitted(**settings: object) -> EEGEncoder:
    torch.manual_seed(0)
    config, notes = encoder_config("linear", **settings).sized(sfreq=250.0, n_samples=60)
    assert not notes
    encoder = build_encoder(config, n_channels=5, n_samples=60).eval()
    encoder.fit_normalisation([EEG[:20], EEG[20:]])
    encoder.fit_trunk([EEG[:20], EEG[20:]])
    return encoder


def test_windows_are_means_over_40_ms_of_whitened_channels() -> None:
    encoder = fitted()
    whitened = encoder.whitening @ (EEG - encoder.channel_mean[:, None])
    expected = whitened.unflatten(2, (6, 10)).mean(3).flatten(1)  # 10 samples at 250 Hz
    found = encoder.trunk.windows(EEG, encoder.channel_mean, encoder.whitening)
    assert torch.allclose(found, expected, atol=1e-5)


def test_features_are_a_linear_function_of_the_segment() -> None:
    encoder = fitted(feature_size=7)
    middle = encoder(0.25 * EEG[:1] + 0.75 * EEG[1:2])
    assert torch.allclose(middle, 0.25 * encoder(EEG[:1]) + 0.75 * encoder(EEG[1:2]), atol=1e-4)


def test_what_was_fitted_is_exported(tmp_path: object) -> None:
    encoder = fitted()
    encoder.save_pretrained(str(tmp_path))
    assert torch.equal(EEGEncoder.from_pretrained(str(tmp_path))(EEG), encoder(EEG))


def test_a_window_longer_than_the_segment_is_refused() -> None:
    with pytest.raises(ValueError, match=r"window_samples 61 is more than the 60 samples"):
        build_encoder(encoder_config("linear", window_samples=61), n_channels=5, n_samples=60)
