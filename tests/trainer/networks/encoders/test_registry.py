"""Encoders by name, and their configurations."""

import json

import pytest
from small_encoders import KINDS

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.networks.encoders.base import Trunk
from neuroimagen.trainer.networks.encoders.registry import (
    DEFAULT_KIND,
    ENCODERS,
    encoder_config,
    stored_encoder_config,
)


@pytest.mark.parametrize("kind", ENCODERS.names())
def test_every_encoder_declares_a_configuration_that_json_keeps(kind: str) -> None:
    trunk = ENCODERS[kind]
    assert issubclass(trunk, Trunk)
    config = encoder_config(kind, feature_size=7, subject_layers=True)
    assert type(config) is trunk.Config
    assert config.kind == kind
    assert stored_encoder_config(json.loads(json.dumps(config.stored()))) == config


def test_the_default_is_registered_and_an_unknown_name_is_answered_with_the_nearest() -> None:
    assert encoder_config().kind == DEFAULT_KIND
    assert DEFAULT_KIND in KINDS
    with pytest.raises(UserError, match=r"no encoder 'lsmt'\. Did you mean 'lstm'"):
        encoder_config("lsmt")


def test_a_setting_of_another_kind_is_refused() -> None:
    with pytest.raises(TypeError, match="token_samples"):
        encoder_config("lstm", token_samples=4)
