"""Models of braindecode as encoders, where the library can be imported (it needs the torchaudio of this PyTorch)."""

from pathlib import Path

import pytest
import torch

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder, build_encoder
from neuroimagen.trainer.networks.encoders.registry import encoder_config


def braindecode_is_here() -> bool:
    try:
        from braindecode import models  # noqa: F401
    except (ImportError, OSError):
        return False
    return True


needs_braindecode = pytest.mark.skipif(
    not braindecode_is_here(), reason='braindecode cannot be imported: pip install "neuroimagen[braindecode]"'
)


@needs_braindecode
@pytest.mark.parametrize("model", ["EEGNet", "ShallowFBCSPNet", "Deep4Net"])
def test_a_model_reads_whitened_channels_and_gives_the_features(model: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = encoder_config("braindecode", model=model, feature_size=12, options={"drop_prob": 0.1})
    encoder = build_encoder(config, n_channels=6, n_samples=500)
    eeg = 3.0 + torch.randn(5, 6, 500)
    encoder.fit_normalisation([eeg])
    encoder(eeg).sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())
    encoder.eval()
    white = encoder.whitening @ (eeg - encoder.channel_mean[:, None])
    features = encoder(eeg)
    assert features.shape == (5, 12)
    assert torch.equal(features, encoder.trunk.model(white))
    encoder.save_pretrained(tmp_path)
    again = EEGEncoder.from_pretrained(tmp_path)
    assert again.config["encoder"]["options"] == {"drop_prob": 0.1}
    assert torch.equal(again(eeg), features)


@needs_braindecode
def test_what_does_not_fit_is_refused_with_its_reason() -> None:
    with pytest.raises(UserError, match=r"no model 'EEGnet'\. It has .*EEGNet"):
        build_encoder(encoder_config("braindecode", model="EEGnet"), n_channels=6, n_samples=500)
    with pytest.raises(UserError, match=r"EEGNet cannot be made for 6 channels × 500 samples .*no_such_option"):
        build_encoder(encoder_config("braindecode", options={"no_such_option": 1}), n_channels=6, n_samples=500)


@pytest.mark.skipif(braindecode_is_here(), reason="braindecode is installed")
def test_without_the_library_the_error_says_what_to_install() -> None:
    with pytest.raises(UserError, match=r'pip install "neuroimagen\[braindecode\]"'):
        build_encoder(encoder_config("braindecode"), n_channels=6, n_samples=500)
