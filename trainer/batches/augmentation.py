"""Changes made to training segments, so that an encoder does not rely on exact timing, amplitude or single channels."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.numbers import require_finite
from neuroimagen.trainer.networks.randomness import StepRandom


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Changes made to training segments; each sample draws its own."""

    shift_samples: int = 0
    """Each segment moves in time by up to this many samples either way; the border value is repeated."""
    shift_ms: float = 0.0
    """The same in ms, in place of shift_samples: it means the same at every sampling rate."""
    largest_shift: float = 0.05
    """Share of the segment that a shift moves it by at most; a longer one is cut to it, with a line that says so. A
    response moved by a large part of a short segment is no longer the response.
    """
    scale_std: float = 0.0
    """Each segment's amplitude is multiplied by 1 + this × a normal number."""
    drop_channels: float = 0.0
    """Share of channels set to their mean."""

    def __post_init__(self) -> None:
        require_finite(self)
        if self.shift_samples < 0 or self.scale_std < 0 or not 0 <= self.drop_channels < 1:
            raise ValueError("augment: shift_samples and scale_std must be at least 0, drop_channels in [0, 1)")
        if self.shift_ms < 0 or not 0 <= self.largest_shift <= 1:
            raise ValueError("augment: shift_ms must be at least 0, largest_shift in [0, 1]")
        if self.shift_ms and self.shift_samples:
            raise ValueError("augment: give shift_ms or shift_samples, not both")

    def sized(self, *, sfreq: float | None, n_samples: int) -> "tuple[AugmentConfig, str | None]":
        """These changes with the shift in samples of segments of `n_samples` at `sfreq` Hz, and a sentence where the
        segment cuts the shift short. Raises UserError where a shift in ms meets data of an unknown rate.
        """
        wanted = self.shift_samples
        if self.shift_ms:
            if sfreq is None:
                raise UserError(
                    "augment.shift_ms needs the sampling rate: set data.sfreq, or data.path to the data set, or give "
                    "augment.shift_samples."
                )
            wanted = round(self.shift_ms * sfreq / 1000)
        shift = min(wanted, int(self.largest_shift * n_samples))
        note = None
        if shift < wanted:
            note = (
                f"augment shifts segments by at most {shift} samples, not {wanted}: more than {self.largest_shift:.0%} "
                f"of the {n_samples} samples of a segment (augment.largest_shift)."
            )
        return replace(self, shift_samples=shift, shift_ms=0.0), note


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
