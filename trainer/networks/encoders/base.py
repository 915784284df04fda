"""What an EEG encoder is made of: its configuration, and the trunk that reads whitened channels.

An encoder is one file: a configuration class beside the trunk that it configures, and one line in registry.py.

Shapes: B segments, C channels, T samples, F features.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Literal, Self

from torch import Tensor, nn

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.numbers import require_finite

UnknownSubject = Literal["mean", "error"]

LARGEST_WINDOW = 0.25
"""Share of a segment that a filter or window whose length is given in ms takes at most: longer ones leave a short
segment with hardly any outputs.
"""


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """What every encoder's configuration has. A subclass adds the fields of its own and the default of `kind`."""

    kind: str
    """Name of the encoder in the registry."""
    feature_size: int = 128
    """Length F of the feature vector; 128 in most published work on EEGCVPR40."""
    dropout: float = 0.25
    """Share of the last layer's inputs that are zeroed in training."""
    whiten: bool = True
    """Decorrelate the channels by the training split's covariance; false: only scale each to unit variance.
    Neighbouring electrodes record nearly the same: what distinguishes the stimuli lies in small differences between
    them, which gradient descent finds late when a few common directions hold most of the variance.
    """
    subject_layers: bool = False
    """A linear map of the whitened channels for each subject, before the trunk (Défossez et al. 2023); it starts as the
    identity.
    """
    unknown_subject: UnknownSubject = "mean"
    """A subject without a map or token of its own gets the mean of all, or is an error."""

    def __post_init__(self) -> None:
        require_finite(self)
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is int and value < 1:
                raise ValueError(f"encoder.{field.name} must be at least 1, got {value}")
            if field.name.endswith("dropout") and not 0.0 <= value < 1.0:
                raise ValueError(f"encoder.{field.name} must lie in [0, 1), got {value}")
            if field.name.endswith("_ms") and value is not None and value <= 0:
                raise ValueError(f"encoder.{field.name} must be positive, got {value}")

    @property
    def reads_subjects(self) -> bool:
        """Whether a part of the encoder is each subject's own, so that it is made for a list of subjects."""
        return self.subject_layers

    def stored(self) -> dict[str, Any]:
        """The settings as config.json of an export has them, without those of subject layers where there are none."""
        settings = asdict(self)
        if not self.subject_layers:
            del settings["subject_layers"]
        if not self.reads_subjects:
            del settings["unknown_subject"]
        # What is not set says nothing; exports that were made before these settings have none of them.
        return {
            key: value for key, value in settings.items() if value is not None or not key.endswith(("_ms", "_samples"))
        }

    def sized(self, *, sfreq: float | None, n_samples: int) -> tuple[Self, list[str]]:
        """These settings with every length in samples for segments of `n_samples` at `sfreq` Hz, and a sentence for
        each length that the segment cuts short.

        A setting X_ms gives X_samples: at least 1, at most LARGEST_WINDOW of the segment, odd where it is a kernel's,
        so that its middle is a sample. Where X_samples may be null and is set, X_ms is not used. At an unknown rate the
        default of X_ms leaves X_samples null, and any other value raises UserError.
        """
        changes: dict[str, Any] = {}
        notes = []
        own = {field.name: field for field in fields(self)}
        for name in own:
            stem = name.removesuffix("_ms")
            value = getattr(self, name)
            if stem == name or value is None:
                continue
            changes[name] = None
            can_be_null = own[f"{stem}_samples"].default is None
            if can_be_null and getattr(self, f"{stem}_samples") is not None:
                continue
            if sfreq is None and can_be_null and value == own[name].default:
                notes.append(f"the sampling rate is not known, so encoder.{name} {value:g} is not used (data.sfreq).")
                continue
            if sfreq is None:
                raise UserError(
                    f"encoder.{name} needs the sampling rate: set data.sfreq, or data.path to the data set, or give "
                    f"encoder.{stem}_samples."
                )
            wanted = max(1, round(value * sfreq / 1000))
            samples = min(wanted, max(1, int(LARGEST_WINDOW * n_samples)))
            if samples < wanted:
                notes.append(
                    f"encoder.{name} {value:g} is {wanted} samples; it is cut to {samples}, a quarter of the segment's "
                    f"{n_samples}."
                )
            if stem.endswith("kernel"):
                samples = samples if samples % 2 else max(1, samples - 1)
            changes[f"{stem}_samples"] = samples
        return replace(self, **changes), notes


class Trunk(nn.Module):
    """The network of an encoder, after the channels' normalisation.

    `forward` gets EEG as recorded with the channels' mean and the whitening matrix, and applies them itself: the first
    linear layer can take the matrix in, where whitened channels would cost C² multiplications per sample.
    """

    Config: ClassVar[type[EncoderConfig]]
    token_size: int | None = None
    """W: length of the vector of the segment's subject that `forward` gets as `token` too; None: it gets none. Where it
    is set, the configuration's `reads_subjects` must be true."""

    def __init__(self, config: Any, *, n_channels: int, n_samples: int) -> None:
        """`config`: of the class `Config`. Raises ValueError where segments are too short for it."""
        super().__init__()

    def forward(self, eeg: Tensor, mean: Tensor, whitening: Tensor) -> Tensor:
        """EEG [B, C, T], mean [C], whitening [C, C] (with subject layers each segment's own, [B, C, C]) → features
        [B, F], all float32. Where `token_size` is set: `token` [B, W] as a fourth argument.
        """
        raise NotImplementedError

    def fit(self, segments: Iterable[Tensor], mean: Tensor, whitening: Tensor) -> None:
        """Estimate the trunk's own statistics from batches of training segments, each [B, C, T], before the first step.
        By default it has none.
        """


FLAT_KEYS = frozenset(
    {
        *("kind", "feature_size", "spatial_filters", "temporal_filters", "kernel_samples", "stride_samples"),
        *(
            "pool_samples",
            "rectified",
            "token_samples",
            "width",
            "depth",
            "heads",
            "block_dropout",
            "dropout",
            "whiten",
        ),
    }
)
"""What runs and exports hold that were made when all encoders shared one configuration class."""


def own_settings(settings: Mapping[str, Any], config: type[EncoderConfig]) -> dict[str, Any]:
    """The settings that are for `config`, of an export or run of any version.

    Earlier versions stored the settings of every kind of encoder; those of other kinds are left out. Settings that are
    no complete set of that form are returned as they are.
    """
    if not settings.keys() >= FLAT_KEYS:
        return dict(settings)
    own = {field.name for field in fields(config)}
    return {key: value for key, value in settings.items() if key in own or key not in FLAT_KEYS}


def group_norm(num_filters: int) -> nn.GroupNorm:
    """GroupNorm, not BatchNorm: the features of a segment must not depend on how a batch is divided over ranks."""
    return nn.GroupNorm(8 if num_filters % 8 == 0 else 1, num_filters)
