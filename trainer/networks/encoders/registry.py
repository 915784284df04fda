"""The EEG encoders by name, and their configurations."""

from collections.abc import Mapping
from typing import Any

from neuroimagen.data_shards.common.registry import Registry
from neuroimagen.trainer.networks.encoders.base import EncoderConfig, Trunk, own_settings

DEFAULT_KIND = "temporal_spatial"

ENCODERS: Registry[type[Trunk]] = Registry(
    "encoder",
    "neuroimagen.encoders",
    {
        "lstm": "neuroimagen.trainer.networks.encoders.lstm:LSTMTrunk",
        "temporal_spatial": "neuroimagen.trainer.networks.encoders.temporal_spatial:TemporalSpatialTrunk",
        "transformer": "neuroimagen.trainer.networks.encoders.transformer:TransformerTrunk",
        "nice": "neuroimagen.trainer.networks.encoders.nice:NICETrunk",
        "atm": "neuroimagen.trainer.networks.encoders.atm:ATMTrunk",
        "flat": "neuroimagen.trainer.networks.encoders.flat:FlatTrunk",
        "linear": "neuroimagen.trainer.networks.encoders.linear:LinearTrunk",
        "tangent": "neuroimagen.trainer.networks.encoders.tangent:TangentTrunk",
        "eegnet": "neuroimagen.trainer.networks.encoders.eegnet:EEGNetTrunk",
        "braindecode": "neuroimagen.trainer.networks.encoders.braindecode:BraindecodeTrunk",
    },
)


def encoder_config(kind: str = DEFAULT_KIND, **settings: Any) -> EncoderConfig:
    """The configuration of an encoder by its name. Raises UserError for an unknown name, ValueError for a bad value."""
    return ENCODERS[kind].Config(kind=kind, **settings)


def stored_encoder_config(settings: Mapping[str, Any]) -> EncoderConfig:
    """The configuration in an export or a run of any version; `settings` are JSON values with a `kind`."""
    config = ENCODERS[settings["kind"]].Config
    return config(**own_settings(settings, config))
