"""Every encoder through the same contract."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_encoders import KINDS, fitting_config
from torch.nn import functional as F

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.networks.encoders.base import EncoderConfig
from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder, build_encoder
from neuroimagen.trainer.networks.encoders.registry import encoder_config
from neuroimagen.trainer.networks.gan import SaliencyModel

SHAPES = [(128, 440), (17, 100), (5, 123), (63, 250)]


def config(kind: str, **changes: object) -> EncoderConfig:
    return fitting_config(kind, **{"feature_size": 24, "spatial_filters": 8, "temporal_filters": 12, **changes})


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_features_gradients_and_round_trip(kind: str, shape: tuple[int, int], tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(config(kind), n_channels=shape[0], n_samples=shape[1])
    eeg = torch.randn(3, *shape)
    features = encoder(eeg)
    assert features.shape == (3, 24)
    assert features.dtype == torch.float32
    features.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in encoder.parameters())

    encoder.fit_normalisation([eeg])
    encoder.eval()
    encoder.save_pretrained(tmp_path / "export")
    again = EEGEncoder.from_pretrained(tmp_path / "export")
    assert not again.training
    assert torch.equal(again(eeg), encoder(eeg))
    assert torch.equal(pickle.loads(pickle.dumps(encoder))(eeg), encoder(eeg))
    # A segment's features do not depend on its neighbours in the batch.
    # (Float32 sums of a smaller batch may be taken in another order; features are of order 1.)
    assert torch.allclose(encoder(eeg[1:2]), encoder(eeg)[1:2], atol=1e-5)

    with torch.device("meta"):
        meta = build_encoder(config(kind), n_channels=shape[0], n_samples=shape[1])
        assert meta(torch.empty(2, *shape)).shape == (2, 24)


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


def test_a_rectified_lstm_s_features_are_cut_at_zero() -> None:
    torch.manual_seed(0)
    plain = build_encoder(config("lstm"), n_channels=5, n_samples=30)
    rectified = build_encoder(config("lstm", rectified=True), n_channels=5, n_samples=30)
    rectified.load_state_dict(plain.state_dict())
    eeg = torch.randn(6, 5, 30)
    assert (plain.eval()(eeg) < 0).any()
    assert torch.equal(rectified.eval()(eeg), plain(eeg).clamp_min(0))


def test_normalisation_is_that_of_the_segments_and_part_of_the_export(tmp_path: Path) -> None:
    eeg = torch.randn(40, 4, 64)
    eeg[:, 1] += eeg[:, 0]  # neighbouring electrodes record nearly the same
    eeg = eeg * torch.tensor([1.0, 5.0, 0.1, 0.0])[:, None] + torch.tensor([0.0, 3.0, -2.0, 9.0])[:, None]
    encoder = build_encoder(config("temporal_spatial"), n_channels=4, n_samples=64)
    encoder.fit_normalisation(eeg.split(16))
    assert torch.allclose(encoder.channel_mean, eeg.mean(dim=(0, 2)), atol=1e-5)
    white = torch.cov((encoder.whitening @ (eeg - encoder.channel_mean[:, None])).transpose(0, 1).flatten(1))
    # Unit variance and no correlation, up to n / (n − 1) at 2,560 values; the flat channel stays flat.
    assert torch.allclose(white, torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.0])), atol=1e-3)
    encoder.save_pretrained(tmp_path)
    assert torch.equal(EEGEncoder.from_pretrained(tmp_path).whitening, encoder.whitening)

    scaled = build_encoder(config("temporal_spatial", whiten=False), n_channels=4, n_samples=64)
    scaled.fit_normalisation(eeg.split(16))
    assert torch.allclose(scaled.whitening.diagonal()[:3], 1 / eeg.std(dim=(0, 2), correction=0)[:3], rtol=1e-4)
    assert torch.equal(scaled.whitening, torch.diag(scaled.whitening.diagonal()))
    assert scaled.whitening[3, 3] == 1.0  # a flat channel is not blown up
    with pytest.raises(ValueError, match="no segments"):
        encoder.fit_normalisation([])


def test_wrong_segments_and_settings_are_refused() -> None:
    encoder = build_encoder(config("temporal_spatial"), n_channels=4, n_samples=64)
    with pytest.raises(ValueError, match=r"\(4, 65\).*\(4, 64\)"):
        encoder(torch.zeros(1, 4, 65))
    for wrong in ({"feature_size": 0}, {"dropout": 1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            config("lstm", **wrong)


def test_an_export_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no config\.json"):
        EEGEncoder.from_pretrained(tmp_path)
    build_encoder(config("lstm"), n_channels=4, n_samples=64).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="'eeg-encoder', but a 'saliency-model'"):
        SaliencyModel.from_pretrained(tmp_path)

    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot be read"):
        EEGEncoder.from_pretrained(tmp_path)
    weights.write_bytes(whole)
    tensors = load_file(weights)
    del tensors["trunk.head.bias"]
    save_file(tensors, weights)
    with pytest.raises(UserError, match=r"do not agree.*trunk\.head\.bias"):
        EEGEncoder.from_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["n_channels"] == 4


FLAT = {
    **{"feature_size": 24, "spatial_filters": 8, "temporal_filters": 12, "kernel_samples": 17, "stride_samples": 4},
    **{"pool_samples": 51, "rectified": False, "token_samples": 4, "width": 128, "depth": 4, "heads": 4},
    **{"block_dropout": 0.1, "dropout": 0.25, "whiten": True},
}
"""The settings that an export had, whatever its kind, when all kinds shared one configuration class."""


@pytest.mark.parametrize("kind", KINDS)
def test_exports_with_the_settings_of_every_kind_load_as_before(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(fitting_config(kind, **FLAT), n_channels=5, n_samples=100).eval()
    encoder.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    assert content["encoder"].keys() < {"kind", *FLAT}
    path.write_text(json.dumps(content | {"encoder": {"kind": kind, **FLAT}}))
    eeg = torch.randn(2, 5, 100)
    again = EEGEncoder.from_pretrained(tmp_path)
    assert torch.equal(again(eeg), encoder(eeg))
    assert again.config == encoder.config

    path.write_text(json.dumps(content | {"encoder": {**content["encoder"], "no_such_setting": 1}}))
    with pytest.raises(TypeError, match="no_such_setting"):
        EEGEncoder.from_pretrained(tmp_path)
