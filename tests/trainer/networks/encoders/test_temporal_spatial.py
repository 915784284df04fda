"""The default encoder against its layers written one after the other."""

import pytest
import torch
from torch.nn import functional as F

from neuroimagen.trainer.networks.encoders.eeg_encoder import build_encoder
from neuroimagen.trainer.networks.encoders.registry import encoder_config

SMALL = encoder_config(
    feature_size=12, spatial_filters=6, temporal_filters=8, kernel_samples=7, stride_samples=3, dropout=0.0
)


def test_mean_and_whitening_are_folded_into_the_spatial_mix() -> None:
    """Whitened channels through the plain layers give the same features, also with a matrix for each segment."""
    torch.manual_seed(0)
    trunk = build_encoder(SMALL, n_channels=5, n_samples=61).trunk.eval()
    eeg, mean = 3.0 + torch.randn(4, 5, 61), torch.randn(5)
    for whitening in (torch.randn(5, 5), torch.randn(4, 5, 5)):
        x = trunk.spatial @ (whitening @ (eeg - mean[:, None]))
        linear = F.avg_pool1d(x, 10, ceil_mode=True)
        for layer, norm in zip(trunk.layers, trunk.norms, strict=True):
            x = F.gelu(norm(layer(x)))
        expected = trunk.head(torch.cat([x.flatten(1), linear.flatten(1)], dim=1))
        assert torch.allclose(trunk(eeg, mean, whitening), expected, atol=1e-4)


def test_segments_too_short_for_the_stride_are_refused() -> None:
    with pytest.raises(ValueError, match=r"0 samples are too short for a stride of 3; lower encoder\.stride_samples"):
        build_encoder(SMALL, n_channels=5, n_samples=0)
