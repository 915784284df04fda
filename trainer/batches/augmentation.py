"""Changes made to training segments, so that an encoder does not rely on exact timing, amplitude or single channels."""

from dataclasses import dataclass

import torch
from torch import Tensor

from neuroimagen.data_shards.common.numbers import require_finite
from neuroimagen.trainer.networks.randomness import StepRandom


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Changes made to training segments; each sample draws its own."""

    shift_samples: int = 0
    """Each segment moves in time by up to this many samples either way; the border value is repeated."""
    scale_std: float = 0.0
    """Each segment's amplitude is multiplied by 1 + this × a normal number."""
    drop_channels: float = 0.0
    """Share of channels set to their mean."""

    def __post_init__(self) -> None:
        require_finite(self)
        if self.shift_samples < 0 or self.scale_std < 0 or not 0 <= self.drop_channels < 1:
            raise ValueError("augment: shift_samples and scale_std must be at least 0, drop_channels in [0, 1)")


def augment_eeg(eeg: Tensor, config: AugmentConfig, random: StepRandom) -> Tensor:
    """EEG [B, C, T] changed as `config` says; the draws are the samples' own, whatever the number of ranks."""
    if config.shift_samples:
        n_samples = eeg.shape[2]
        span = 2 * config.shift_samples + 1
        shifts = (random.uniform("eeg-shift") * span).long() - config.shift_samples
        source = (torch.arange(n_samples, device=eeg.device) - shifts[:, None]).clamp(0, n_samples - 1)
        eeg = eeg.gather(2, source[:, None, :].expand_as(eeg))
    if config.scale_std:
        eeg = eeg * (1.0 + config.scale_std * random.normal("eeg-scale", 1, 1))
    if config.drop_channels:
        keep = random.uniform("eeg-channels", eeg.shape[1], 1) >= config.drop_channels
        eeg = torch.where(keep, eeg, eeg.mean(dim=2, keepdim=True))
    return eeg
