"""Exports: what is written, and what is refused on reading."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from small_encoders import fitting_config

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.networks.encoders.base import EncoderConfig
from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder, build_encoder
from neuroimagen.trainer.networks.gan import SaliencyModel


def config(kind: str, **changes: object) -> EncoderConfig:
    return fitting_config(kind, **{"feature_size": 24, "spatial_filters": 8, "temporal_filters": 12, **changes})


def test_an_export_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no config\.json"):
        EEGEncoder.from_pretrained(tmp_path)
    build_encoder(config("lstm"), n_channels=4, n_samples=64).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="'eeg-encoder', but a 'saliency-model'"):
        SaliencyModel.from_pretrained(tmp_path)

    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot read the export"):
        EEGEncoder.from_pretrained(tmp_path)
    weights.write_bytes(whole)
    tensors = load_file(weights)
    del tensors["trunk.head.bias"]
    save_file(tensors, weights)
    with pytest.raises(UserError, match=r"do not agree.*trunk\.head\.bias"):
        EEGEncoder.from_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["n_channels"] == 4
