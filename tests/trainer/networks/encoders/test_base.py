"""What all encoders' configurations share, and settings stored by earlier versions."""

import json
from pathlib import Path

import pytest
import torch
from small_encoders import fitting_config

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.networks.encoders.base import group_norm, own_settings
from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder, build_encoder
from neuroimagen.trainer.networks.encoders.registry import encoder_config

FLAT = {
    **{"feature_size": 24, "spatial_filters": 8, "temporal_filters": 12, "kernel_samples": 17, "stride_samples": 4},
    **{"pool_samples": 51, "rectified": False, "token_samples": 4, "width": 128, "depth": 4, "heads": 4},
    **{"block_dropout": 0.1, "dropout": 0.25, "whiten": True},
}
"""The settings that an export had, whatever its kind, when all kinds shared one configuration class."""
FLAT_KINDS = ("lstm", "nice", "temporal_spatial", "transformer")
"""The kinds that there were then."""


@pytest.mark.parametrize("kind", FLAT_KINDS)
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
    with pytest.raises(UserError, match="no_such_setting"):
        EEGEncoder.from_pretrained(tmp_path)


def test_a_setting_out_of_range_is_refused_by_its_name() -> None:
    for name, value in (("feature_size", 0), ("spatial_filters", -1), ("kernel_samples", 0)):
        with pytest.raises(ValueError, match=rf"encoder\.{name} must be at least 1, got {value}"):
            encoder_config("temporal_spatial", **{name: value})
    for name in ("dropout", "block_dropout"):
        for share in (-0.1, 1.0):
            with pytest.raises(ValueError, match=rf"encoder\.{name} must lie in \[0, 1\), got {share}"):
                encoder_config("transformer", **{name: share})


def test_subject_layers_are_stored_only_where_there_are_some() -> None:
    layers = {"subject_layers", "unknown_subject"}
    without, with_layers = encoder_config("lstm").stored(), encoder_config("lstm", subject_layers=True).stored()
    assert with_layers.keys() - without.keys() == layers
    assert with_layers | without == with_layers


def test_settings_that_are_no_complete_old_form_are_taken_as_they_are() -> None:
    """A misspelt key must reach the configuration class, which refuses it, and not be dropped as another kind's."""
    config = type(encoder_config("lstm"))
    assert own_settings({"kind": "lstm", "no_such": 1}, config) == {"kind": "lstm", "no_such": 1}
    old = {"kind": "lstm", **FLAT}
    assert own_settings(old, config) == {name: old[name] for name in own_settings(old, config)}
    assert own_settings(old, config).keys() == {"kind", "feature_size", "rectified", "dropout", "whiten"}


@pytest.mark.parametrize(("num_filters", "groups"), [(8, 8), (64, 8), (12, 1), (7, 1)])
def test_the_norm_takes_any_number_of_filters_and_each_segment_alone(num_filters: int, groups: int) -> None:
    norm = group_norm(num_filters)
    x = torch.randn(3, num_filters, 11)
    assert norm.num_groups == groups
    assert torch.allclose(norm(x)[1:2], norm(x[1:2]), atol=1e-6)


def test_lengths_in_ms_become_samples_of_the_data() -> None:
    config = encoder_config("temporal_spatial", kernel_ms=68.0, stride_ms=16.0)
    sized, notes = config.sized(sfreq=250.0, n_samples=250)
    assert (sized.kernel_samples, sized.stride_samples, notes) == (17, 4, [])
    assert sized.stored() == encoder_config("temporal_spatial").stored()  # as if it had been given in samples
    sized, notes = config.sized(sfreq=1000.0, n_samples=440)
    assert (sized.kernel_samples, sized.stride_samples) == (67, 16)  # a kernel's middle is a sample
    sized, notes = config.sized(sfreq=1000.0, n_samples=50)
    assert (sized.kernel_samples, sized.stride_samples) == (11, 12)
    assert ["cut to 12, a quarter of the segment's 50" in note for note in notes] == [True, True]
    assert sized.sized(sfreq=10.0, n_samples=50) == (sized, [])
    with pytest.raises(UserError, match=r"encoder\.kernel_ms needs the sampling rate: set data\.sfreq"):
        config.sized(sfreq=None, n_samples=50)
    with pytest.raises(ValueError, match=r"encoder\.kernel_ms must be positive"):
        encoder_config("nice", kernel_ms=0.0)


def test_lengths_in_samples_are_kept_at_every_rate() -> None:
    for kind in ("temporal_spatial", "nice", "lstm"):
        config = encoder_config(kind)
        assert config.sized(sfreq=512.0, n_samples=30) == (config, [])
    own = encoder_config("eegnet", kernel_samples=9, pool_samples=2)
    sized, notes = own.sized(sfreq=512.0, n_samples=100)
    assert (sized.kernel_samples, sized.pool_samples, notes) == (9, 2, [])
    sized, notes = encoder_config("linear").sized(sfreq=None, n_samples=100)
    assert sized.window_samples is None
    assert "window_ms 40 is not used" in notes[0]
