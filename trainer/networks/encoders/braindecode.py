"""Any model of the braindecode library as an encoder (`pip install "neuroimagen[braindecode]"`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.networks.encoders.base import EncoderConfig, Trunk


@dataclass(frozen=True, kw_only=True)
class BraindecodeConfig(EncoderConfig):
    """`encoder.kind: braindecode`: a model of braindecode.models, whose outputs are the features.

    Many of these models have BatchNorm, whose statistics are those of one rank's share of a batch: such an encoder does
    not train alike on different numbers of ranks.
    """

    kind: Literal["braindecode"] = "braindecode"
    model: str = "EEGNet"
    """Name of a class in braindecode.models."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of that class, for instance {sfreq: 250, drop_prob: 0.5}. `dropout` above is not passed on."""


class BraindecodeTrunk(Trunk):
    """Whitened channels → the model, made for n_chans × n_times with `feature_size` outputs."""

    Config = BraindecodeConfig

    def __init__(self, config: BraindecodeConfig, *, n_channels: int, n_samples: int) -> None:
        super().__init__(config, n_channels=n_channels, n_samples=n_samples)
        self.feature_size = config.feature_size
        self.name = config.model
        arguments = {"n_chans": n_channels, "n_times": n_samples, "n_outputs": config.feature_size, **config.options}
        try:
            self.model: nn.Module = _model_class(config.model)(**arguments)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"braindecode's {config.model} cannot be made for {n_channels} channels × {n_samples} samples with "
                f"encoder.options {dict(config.options)}: {error}"
            ) from error

    def forward(self, eeg: Tensor, mean: Tensor, whitening: Tensor) -> Tensor:
        features: Tensor = self.model(whitening @ (eeg - mean[:, None]))
        if features.shape != (len(eeg), self.feature_size):
            raise UserError(
                f"braindecode's {self.name} gives {list(features.shape[1:])} numbers for a segment where "
                f"{self.feature_size} features are expected. Choose a model with one output for each segment."
            )
        return features


def _model_class(name: str) -> Any:
    try:
        from braindecode import models  # type: ignore[import-not-found]
    except (ImportError, OSError) as error:  # OSError: torchaudio's library was built for another PyTorch
        raise UserError(
            f"encoder.kind braindecode needs the package braindecode, which cannot be imported here ({error}). Run: "
            'pip install "neuroimagen[braindecode]", with the torchaudio that belongs to your PyTorch.'
        ) from error
    found = getattr(models, name, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        known = ", ".join(sorted(key for key, value in vars(models).items() if isinstance(value, type)))
        raise UserError(f"encoder.model: braindecode has no model {name!r}. It has {known}.")
    return found
