"""Encoders of every kind that needs no further package, in small sizes."""

import dataclasses

from neuroimagen.trainer.networks.encoders.base import EncoderConfig
from neuroimagen.trainer.networks.encoders.registry import ENCODERS, encoder_config

KINDS = tuple(kind for kind in ENCODERS if kind != "braindecode")


def fitting_config(kind: str, **settings: object) -> EncoderConfig:
    """The configuration of `kind` with those of `settings` that it has."""
    names = {field.name for field in dataclasses.fields(ENCODERS[kind].Config)}
    return encoder_config(kind, **{name: value for name, value in settings.items() if name in names})
