"""EEGNet against its layers as the paper has them, in the paper's order."""

import pytest
import torch
from torch.nn import functional as F

from neuroimagen.trainer.networks.encoders.eeg_encoder import build_encoder
from neuroimagen.trainer.networks.encoders.eegnet import bounded
from neuroimagen.trainer.networks.encoders.registry import encoder_config

EEG = torch.randn(4, 5, 96, generator=torch.Generator().manual_seed(0))


def test_it_is_its_layers_one_after_the_other() -> None:
    """Filters in time on every electrode first, then depthwise filters in space: the paper's order, at its cost."""
    torch.manual_seed(1)
    settings = encoder_config("eegnet", feature_size=3, kernel_samples=16, pool_samples=4)
    encoder = build_encoder(settings, n_channels=5, n_samples=96).eval()
    trunk = encoder.trunk
    with torch.no_grad():
        trunk.spatial.mul_(10.0)  # beyond the bounds
        trunk.head.weight.mul_(10.0)
    x = F.conv2d(F.pad(EEG[:, None], (7, 8)), trunk.temporal[:, :, None])  # [B, F1, C, T]
    spatial = torch.renorm(trunk.spatial, 2, 0, 1.0)[:, None, :, None]
    x = F.elu(trunk.norm(F.conv2d(x, spatial, groups=8)[:, :, 0]))
    x = F.avg_pool1d(x, 4)
    x = F.conv1d(F.pad(x, (5, 6)), trunk.separable.weight, groups=16)
    x = F.avg_pool1d(F.elu(trunk.norm_separable(F.conv1d(x, trunk.mix.weight))), 6)
    expected = x.flatten(1) @ torch.renorm(trunk.head.weight, 2, 0, 0.25).T + trunk.head.bias
    assert torch.allclose(encoder(EEG), expected, atol=1e-4)


def test_a_step_takes_means_first_and_keeps_lengths_in_time() -> None:
    torch.manual_seed(0)
    fine = build_encoder(encoder_config("eegnet", kernel_samples=8, pool_samples=2), n_channels=5, n_samples=48).eval()
    settings = encoder_config("eegnet", step_samples=2, kernel_samples=16, pool_samples=4)
    coarse = build_encoder(settings, n_channels=5, n_samples=96).eval()
    coarse.load_state_dict(fine.state_dict())
    assert torch.allclose(coarse(EEG), fine(EEG.unflatten(2, (48, 2)).mean(3)), atol=1e-5)
    for sfreq, step in ((100.0, 1), (250.0, 1), (400.0, 2), (1000.0, 5)):
        assert encoder_config("eegnet").sized(sfreq=sfreq, n_samples=1000)[0].step_samples == step


def test_norms_are_bounded_and_shorter_rows_are_unchanged() -> None:
    rows = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    assert torch.allclose(bounded(rows, 1.0), torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))


@pytest.mark.parametrize(
    ("sfreq", "n_samples"), [(100.0, 50), (128.0, 128), (400.0, 400), (1000.0, 3000), (2048.0, 60)]
)
def test_lengths_in_ms_fit_every_segment(sfreq: float, n_samples: int) -> None:
    config, notes = encoder_config("eegnet").sized(sfreq=sfreq, n_samples=n_samples)
    assert config.kernel_samples is not None
    assert config.kernel_samples <= n_samples / 4
    assert abs(config.kernel_samples - 0.25 * sfreq) <= 1 or len(notes) > 0
    encoder = build_encoder(config, n_channels=3, n_samples=n_samples)
    assert encoder(torch.randn(2, 3, n_samples)).shape == (2, 128)


def test_a_segment_without_four_means_is_refused() -> None:
    with pytest.raises(ValueError, match="hold 3 means over 5"):
        build_encoder(encoder_config("eegnet", pool_samples=5), n_channels=3, n_samples=19)
