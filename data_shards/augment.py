"""Train-time augmentation of EEG batches, seeded by (seed, epoch, row): the same on any number of ranks.

Every effect on a segment is drawn from a stream of its own, named by (seed, epoch, row, effect), so it depends neither
on the batch that the segment happens to be in nor on which other effects are on. Shapes: B, C, T as in fetch.py.
"""

import dataclasses

import numpy as np
import torch

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.permutation import derive_key

_MIXUP, _SHIFT, _SCALE, _DROPOUT, _NOISE = range(5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentOptions:
    """Which effects, and how strong; the default is none. They are applied in this order."""

    mixup: float = 0.0
    """Largest weight of another segment of the same class, 0 to 0.5; the weight is uniform in [0, mixup]."""
    time_shift: int = 0
    """Largest shift in samples, either way; the gap is filled by repeating the edge."""
    scale: float = 0.0
    """Amplitudes are multiplied by exp(u), u uniform in [-scale, scale]."""
    channel_dropout: float = 0.0
    """Probability of setting a channel to zero."""
    noise: float = 0.0
    """Standard deviation of added white noise, as a fraction of each segment's own."""

    def __post_init__(self) -> None:
        for name, limit in (("mixup", 0.5), ("scale", 10.0), ("channel_dropout", 1.0), ("noise", 100.0)):
            if not 0 <= getattr(self, name) <= limit:
                raise UserError(f"augmentation {name} is {getattr(self, name)}; it must be 0 to {limit}.")
        if self.time_shift < 0:
            raise UserError(f"augmentation time_shift is {self.time_shift}; it must not be negative.")


class Augmentation:
    """Applies AugmentOptions to batches."""

    def __init__(self, options: AugmentOptions, *, seed: int) -> None:
        self.options = options
        self._seed = seed

    def __call__(
        self, eeg: torch.Tensor, rows: torch.Tensor, *, epoch: int, partners: torch.Tensor | None = None
    ) -> torch.Tensor:
        """float32 [B, C, T] of the segments `rows` (int64 [B]) → augmented copy, on the same device.

        With mixup, `partners` is the EEG of the rows that a MixupPool gave.
        """
        options = self.options
        numbers = rows.cpu().numpy()
        n_channels, n_samples = eeg.shape[1:]
        if options.mixup > 0:
            if partners is None:
                raise ValueError("mixup needs the partners' EEG: read the rows that MixupPool.partners gives")
            weight = self._on(eeg, options.mixup * self._uniform(_MIXUP, epoch, numbers, 1))
            eeg = torch.lerp(eeg, partners, weight[:, :, None])
        if options.time_shift > 0:
            drawn = self._uniform(_SHIFT, epoch, numbers, 1)
            shift = np.floor(drawn * (2 * options.time_shift + 1)).astype(np.int64) - options.time_shift  # [B, 1]
            source = np.clip(np.arange(n_samples) - shift, 0, n_samples - 1)  # [B, T]
            eeg = eeg.gather(2, torch.from_numpy(source).to(eeg.device)[:, None].expand_as(eeg))
        if options.scale > 0:
            exponent = options.scale * (2 * self._uniform(_SCALE, epoch, numbers, 1) - 1)
            eeg = eeg * self._on(eeg, np.exp(exponent))[:, :, None]
        if options.channel_dropout > 0:
            kept = self._uniform(_DROPOUT, epoch, numbers, n_channels) >= options.channel_dropout
            eeg = eeg * self._on(eeg, kept)[:, :, None]
        if options.noise > 0:
            eeg = eeg + options.noise * eeg.std(dim=(1, 2), keepdim=True) * self._normal(eeg, epoch, numbers)
        return eeg

    def _uniform(self, effect: int, epoch: int, rows: np.ndarray, count: int) -> np.ndarray:
        """float64 [B, count] in [0, 1): the hash of (seed, epoch, row, effect, position)."""
        keys = derive_key(self._seed, epoch, rows[:, None], effect, np.arange(count))
        return (keys >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def _normal(self, eeg: torch.Tensor, epoch: int, rows: np.ndarray) -> torch.Tensor:
        """Standard normal [B, C, T]: one generator, set to each segment's own seed in turn."""
        generator = torch.Generator(eeg.device)
        noise = torch.empty_like(eeg)
        for position, key in enumerate((derive_key(self._seed, epoch, rows, _NOISE) >> np.uint64(1)).tolist()):
            noise[position].normal_(generator=generator.manual_seed(key))
        return noise

    @staticmethod
    def _on(eeg: torch.Tensor, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(device=eeg.device, dtype=eeg.dtype)


class MixupPool:
    """Draws for each segment another one of its class, from the rows given, whatever the rank's batch holds."""

    def __init__(self, rows: np.ndarray, labels: np.ndarray, *, seed: int) -> None:
        """rows: those to draw from, the training part; labels: their classes, in the same order."""
        order = np.argsort(labels, kind="stable")
        self._rows = np.asarray(rows, dtype=np.int64)[order]
        self._classes, self._starts, self._counts = np.unique(
            np.asarray(labels)[order], return_index=True, return_counts=True
        )
        self._seed = seed

    def partners(self, labels: np.ndarray, rows: np.ndarray, *, epoch: int) -> np.ndarray:
        """int64 [B]: rows of the same classes as `labels`; a segment may draw itself. UserError for a new class."""
        place = np.searchsorted(self._classes, labels)
        if (place >= len(self._classes)).any() or (self._classes[place] != labels).any():
            raise UserError("a segment's class has no rows to mix with.")
        keys = derive_key(self._seed, epoch, np.asarray(rows), _MIXUP)
        return self._rows[self._starts[place] + (keys % self._counts[place].astype(np.uint64)).astype(np.int64)]
