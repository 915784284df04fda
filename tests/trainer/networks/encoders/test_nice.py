"""NICE's encoder against its layers as the paper has them."""

import pytest
import torch
from torch.nn import functional as F

from neuroimagen.trainer.networks.encoders.eeg_encoder import build_encoder
from neuroimagen.trainer.networks.encoders.registry import encoder_config


def test_nice_is_its_layers_one_after_the_other() -> None:
    """Filter and mean as one strided convolution against NICE's layers as they are written in its paper."""
    torch.manual_seed(1)
    settings = encoder_config(
        kind="nice", feature_size=12, temporal_filters=8, spatial_filters=16, kernel_samples=9, pool_samples=11
    )
    encoder = build_encoder(settings, n_channels=5, n_samples=83).eval()
    trunk = encoder.trunk
    eeg = torch.randn(4, 5, 83)
    x = F.conv2d(eeg[:, None], trunk.temporal.weight[:, :, None], trunk.temporal.bias)
    x = F.elu(trunk.norm_temporal(F.avg_pool2d(x, (1, 11), (1, 4))))
    x = F.elu(trunk.norm_spatial(trunk.spatial(x)))
    x = trunk.head(F.conv2d(x, trunk.mix.weight[..., None], trunk.mix.bias).flatten(1))
    expected = trunk.norm(x + trunk.residual(F.gelu(x)))
    assert torch.allclose(encoder(eeg), expected, atol=1e-5)

    with pytest.raises(ValueError, match=r"18 samples are shorter than the 19.*encoder\.pool_samples"):
        build_encoder(settings, n_channels=5, n_samples=18)


def test_nice_has_as_many_parameters_as_its_released_code() -> None:
    settings = encoder_config(
        kind="nice", feature_size=768, temporal_filters=40, spatial_filters=40, kernel_samples=25, stride_samples=5
    )
    encoder = build_encoder(settings, n_channels=63, n_samples=250)
    # Its layers at 63 × 250: 103,680 in the convolutions and their norms, 1,698,816 in the projector.
    assert sum(p.numel() for p in encoder.parameters()) == 103_680 + 1_698_816
