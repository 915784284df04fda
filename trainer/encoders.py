"""EEG encoders f_θ: a segment, channels × samples, becomes a feature vector.

Shapes: B segments, C channels, T samples, S spatial filters, F features.
A trunk gets the segments as recorded, with the channels' mean [C] and the whitening matrix [C, C] that its first linear
layer takes in: whitened channels themselves would cost C² multiplications a sample.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroimagen.trainer.pretrained import PretrainedModule
from neuroimagen.trainer.randomness import SampleDropout


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Which network reads the EEG, and how large it is."""

    kind: Literal["lstm", "temporal_spatial", "transformer", "nice"] = "temporal_spatial"
    """`lstm`: `feature_size` hidden units, last step (Brain2Image). `temporal_spatial`: convolutions, faster and
    stronger (after NICE). `transformer`: tokens of time, the one that the masked stage can pre-train (after
    DreamDiffusion). `nice`: NICE's own layers, filters in time before those in space.
    """
    feature_size: int = 128
    """Length of the feature vector; the paper's neighbours use 128."""
    spatial_filters: int = 48
    """temporal_spatial: virtual channels that the electrodes are mixed into before any filter in time. nice: filters in
    space, after those in time.
    """
    temporal_filters: int = 64
    """temporal_spatial: filters in time of each of the three layers. nice: filters in time of the first layer."""
    kernel_samples: int = 17
    """temporal_spatial: length of the first filter; the layers after it are half as long, on a coarser grid. nice:
    length of the filters in time.
    """
    stride_samples: int = 4
    """temporal_spatial: samples from one output of the first filter to the next. nice: from one mean to the next."""
    pool_samples: int = 51
    """nice: samples of the filtered EEG that each mean is taken over."""
    rectified: bool = False
    """lstm: features are cut at 0 (ReLU after the last layer), as Brain2Image's are."""
    token_samples: int = 4
    """transformer: samples a token, over all channels."""
    width: int = 128
    """transformer: size of a token."""
    depth: int = 4
    """transformer: number of blocks."""
    heads: int = 4
    """transformer: heads of attention."""
    block_dropout: float = 0.1
    """transformer: dropout after each block's dense layers."""
    dropout: float = 0.25
    """Share of the last layer's inputs that are zeroed in training."""
    whiten: bool = True
    """Decorrelate the channels by the training part's covariance; false: only scale each to unit variance. Neighbouring
    electrodes record nearly the same: what tells the pictures apart lies in small differences between them, which
    gradient descent finds late when a few common directions hold most of the variance.
    """

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is int and value < 1:
                raise ValueError(f"encoder.{field.name} must be at least 1, got {value}")
        for name in ("dropout", "block_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"encoder.{name} must lie in [0, 1), got {getattr(self, name)}")


LEAST_VARIANCE = 0.1
"""Smallest variance, of a mean channel's 1, that whitening scales up to 1."""


class LSTMTrunk(nn.Module):
    """One LSTM layer; the hidden state after the last sample, then one linear layer.

    Spampinato et al. 2017; with `rectified` the encoder of Brain2Image (Kavasidis et al. 2017).
    """

    def __init__(self, config: EncoderConfig, *, n_channels: int, n_samples: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(n_channels, config.feature_size, batch_first=True)
        self.dropout = SampleDropout(config.dropout)
        self.head = nn.Linear(config.feature_size, config.feature_size)
        self.rectified = config.rectified

    def forward(self, eeg: Tensor, mean: Tensor, whitening: Tensor) -> Tensor:
        x = whitening @ (eeg - mean[:, None])
        _, (hidden, _) = self.lstm(x.transpose(1, 2))
        features = self.head(self.dropout(hidden[-1]))
        return F.relu(features) if self.rectified else features


class TemporalSpatialTrunk(nn.Module):
    """A linear mix of the electrodes, then three strided filters in time, then one linear layer over what is left of
    time.

    A spatial and a temporal filter are both linear and commute. Mixing 128 electrodes into 48 virtual channels first
    leaves every later convolution that much less to do: about 12 M multiply-adds a segment of 128 × 440. GroupNorm, not
    BatchNorm: the result for a segment must not depend on how a batch is cut over ranks.
    """

    def __init__(self, config: EncoderConfig, *, n_channels: int, n_samples: int) -> None:
        super().__init__()
        kernel, stride = config.kernel_samples, config.stride_samples
        half = max(3, (kernel // 2) | 1)
        filters = config.temporal_filters
        self.spatial = nn.Parameter(torch.empty(config.spatial_filters, n_channels))
        nn.init.kaiming_uniform_(self.spatial, a=math.sqrt(5))  # as torch's own convolutions
        # No biases: the norms bring their own, and would take most of these out again.
        self.layers = nn.ModuleList(
            [
                nn.Conv1d(config.spatial_filters, filters, kernel, stride=stride, padding=kernel // 2, bias=False),
                nn.Conv1d(filters, filters, half, stride=2, padding=half // 2, bias=False),
                nn.Conv1d(filters, filters, half, stride=2, padding=half // 2, bias=False),
            ]
        )
        self.norms = nn.ModuleList([_group_norm(filters) for _ in self.layers])
        n_steps = n_samples
        for layer_stride, size in ((stride, kernel), (2, half), (2, half)):
            n_steps = (n_steps + 2 * (size // 2) - size) // layer_stride + 1
        if n_steps < 1:
            raise ValueError(
                f"segments of {n_samples} samples are too short for a stride of {stride}; lower encoder.stride_samples"
            )
        self.dropout = SampleDropout(config.dropout)
        self.pool = nn.AvgPool1d(min(10, n_samples), ceil_mode=True)
        pooled = -(-n_samples // min(10, n_samples))
        self.head = nn.Linear(filters * n_steps + config.spatial_filters * pooled, config.feature_size)

    def forward(self, eeg: Tensor, mean: Tensor, whitening: Tensor) -> Tensor:
        mix = self.spatial @ whitening
        x = F.conv1d(eeg, mix[:, :, None], bias=-(mix @ mean))  # [B, S, T]
        linear = self.pool(x).flatten(1)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = F.gelu(norm(layer(x)))
        return self.head(self.dropout(torch.cat([x.flatten(1), linear], dim=1)))


class NICETrunk(nn.Module):
    """NICE's encoder and projector (Song et al. 2024): filters in time on every electrode, means over time, filters
    over all electrodes, a linear mix of these, then a linear layer with a residual block.

    The layers, their sizes and the number of parameters are those of the released code; GroupNorm stands where it has
    BatchNorm, for the reason given at TemporalSpatialTrunk. The mean of filtered samples is the EEG filtered with the
    filter's running mean, so filter and mean are one strided convolution: the same function, with a fifth of the memory
    and half of the multiplications (28 M in place of 53 M a segment of 128 × 440).
    """

    box: Tensor

    def __init__(self, config: EncoderConfig, *, n_channels: int, n_samples: int) -> None:
        super().__init__()
        self.stride = config.stride_samples
        length = config.kernel_samples + config.pool_samples - 1
        n_steps = (n_samples - length) // self.stride + 1
        if n_steps < 1:
            raise ValueError(
                f"segments of {n_samples} samples are shorter than the {length} that a filter and its mean take; lower "
                "encoder.kernel_samples or encoder.pool_samples"
            )
        filters, spatial = config.temporal_filters, config.spatial_filters
        self.temporal = nn.Conv1d(1, filters, config.kernel_samples)
        self.register_buffer("box", torch.full((1, 1, config.pool_samples), 1 / config.pool_samples), persistent=False)
        self.norm_temporal = _group_norm(filters)
        self.spatial = nn.Conv2d(filters, spatial, (n_channels, 1))
        self.norm_spatial = _group_norm(spatial)
        self.dropout = SampleDropout(config.dropout)
        self.mix = nn.Conv1d(spatial, spatial, 1)
        self.head = nn.Linear(spatial * n_steps, config.feature_size)
        self.residual = nn.Linear(config.feature_size, config.feature_size)
        self.dropout_residual = SampleDropout(config.dropout)
        self.norm = nn.LayerNorm(config.feature_size)

    def forward(self, eeg: Tensor, mean: Tensor, whitening: Tensor) -> Tensor:
        x = (whitening @ (eeg - mean[:, None]))[:, None]  # [B, 1, C, T]
        smoothed = F.conv1d(self.temporal.weight, self.box, padding=self.box.shape[2] - 1)  # [filters, 1, length]
        x = F.conv2d(x, smoothed[:, :, None], self.temporal.bias, stride=(1, self.stride))
        x = F.elu(self.norm_temporal(x))
        x = F.elu(self.norm_spatial(self.spatial(x)[:, :, 0]))  # [B, S, steps]
        features = self.head(self.mix(self.dropout(x)).flatten(1))
        return self.norm(features + self.dropout_residual(self.residual(F.gelu(features))))


def _group_norm(num_filters: int) -> nn.GroupNorm:
    return nn.GroupNorm(8 if num_filters % 8 == 0 else 1, num_filters)


def _build_trunk(config: EncoderConfig, *, n_channels: int, n_samples: int) -> nn.Module:
    if config.kind == "transformer":
        from neuroimagen.trainer.encoders_masked import TransformerTrunk  # which needs this module's names

        return TransformerTrunk(config, n_channels=n_channels, n_samples=n_samples)
    trunks = {"lstm": LSTMTrunk, "temporal_spatial": TemporalSpatialTrunk, "nice": NICETrunk}
    return trunks[config.kind](config, n_channels=n_channels, n_samples=n_samples)


class EEGEncoder(PretrainedModule):
    """f_θ: EEG [B, C, T] float → features [B, F] float32.

    The channels are centred and whitened first, by the mean and the covariance of the training part
    (`fit_normalisation`); both are buffers, so an exported encoder takes the data set's own units.
    """

    model_type: ClassVar[str] = "eeg-encoder"
    channel_mean: Tensor
    whitening: Tensor

    def __init__(self, *, n_channels: int, n_samples: int, encoder: dict[str, Any]) -> None:
        super().__init__()
        settings = EncoderConfig(**encoder)
        self.config = {"n_channels": n_channels, "n_samples": n_samples, "encoder": asdict(settings)}
        self.n_channels = n_channels
        self.n_samples = n_samples
        self.feature_size = settings.feature_size
        self.whiten = settings.whiten
        self.register_buffer("channel_mean", torch.zeros(n_channels))
        self.register_buffer("whitening", torch.eye(n_channels))
        self.trunk = _build_trunk(settings, n_channels=n_channels, n_samples=n_samples)

    def forward(self, eeg: Tensor) -> Tensor:
        if eeg.shape[1:] != (self.n_channels, self.n_samples):
            raise ValueError(
                f"EEG of {tuple(eeg.shape[1:])} channels × samples given to an encoder for "
                f"({self.n_channels}, {self.n_samples})"
            )
        return self.trunk(eeg, self.channel_mean, self.whitening)

    @torch.no_grad()
    def fit_normalisation(self, segments: Iterable[Tensor]) -> None:
        """Set the channels' mean and the whitening matrix from batches of training segments, each [B, C, T]."""
        count = 0
        total = torch.zeros(self.n_channels, dtype=torch.float64)
        products = torch.zeros(self.n_channels, self.n_channels, dtype=torch.float64)
        for batch in segments:
            values = batch.detach().cpu().double().transpose(0, 1).flatten(1)  # [C, B·T]
            count += values.shape[1]
            total += values.sum(dim=1)
            products += values @ values.T
        if count == 0:
            raise ValueError("no segments to fit the normalisation on")
        mean = total / count
        covariance = products / count - torch.outer(mean, mean)
        self.channel_mean.copy_(mean)
        self.whitening.copy_(whitening_matrix(covariance, decorrelate=self.whiten))


def whitening_matrix(covariance: Tensor, *, decorrelate: bool) -> Tensor:
    """W [C, C] with W Σ Wᵀ = 1 for a covariance Σ [C, C] float64, symmetric up to the channels' scales (ZCA-cor: Kessy,
    Lewin, Strimmer 2018); without `decorrelate` only the scales, diag(1/σ).

    A flat channel carries nothing: it is left at unit scale instead of being blown up. Neither are directions with less
    than LEAST_VARIANCE of a channel's mean variance, which hold rounding and amplifier noise.
    """
    std = covariance.diagonal().clamp_min(0).sqrt()
    std = torch.where(std > 1e-6 * std.max().clamp_min(1e-12), std, torch.ones_like(std))
    if not decorrelate:
        return torch.diag(1 / std)
    variances, directions = torch.linalg.eigh(covariance / torch.outer(std, std))
    return directions @ torch.diag(variances.clamp_min(LEAST_VARIANCE).rsqrt()) @ directions.T @ torch.diag(1 / std)


def build_encoder(config: EncoderConfig, *, n_channels: int, n_samples: int) -> EEGEncoder:
    """A freshly initialised encoder for segments of `n_channels` × `n_samples`."""
    return EEGEncoder(n_channels=n_channels, n_samples=n_samples, encoder=asdict(config))
