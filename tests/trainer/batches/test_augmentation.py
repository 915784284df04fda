"""Augmentation: each change against its definition, and no dependence on the number of ranks."""

import pytest
import torch

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.batches.augmentation import AugmentConfig, augment_eeg
from neuroimagen.trainer.networks.randomness import StepRandom

EEG = torch.randn(400, 6, 30, generator=torch.Generator().manual_seed(0))


def random(first: int = 0, count: int = len(EEG)) -> StepRandom:
    return StepRandom(3, 4, first=first, count=count, device=torch.device("cpu"))


def test_nothing_is_changed_by_default() -> None:
    assert augment_eeg(EEG, AugmentConfig(), random()) is EEG


def test_every_shift_occurs_and_repeats_the_border_value() -> None:
    shifted = augment_eeg(EEG, AugmentConfig(shift_samples=2), random())
    padded = torch.cat([EEG[:, :, :1].repeat(1, 1, 2), EEG, EEG[:, :, -1:].repeat(1, 1, 2)], dim=2)
    found = torch.stack([(padded[:, :, 2 - s : 32 - s] == shifted).all(dim=(1, 2)) for s in range(-2, 3)])
    assert torch.equal(found.sum(0), torch.ones(len(EEG), dtype=torch.int64))  # one shift, of the whole segment
    assert (found.sum(1) > len(EEG) / 5 * 0.6).all()


def test_amplitudes_are_scaled_by_one_normal_factor_each() -> None:
    factors = augment_eeg(EEG, AugmentConfig(scale_std=0.2), random()) / EEG
    assert torch.allclose(factors, factors[:, :1, :1].expand_as(factors), rtol=1e-4)
    values = factors[:, 0, 0]
    # 400 draws: standard errors of 0.01 and 0.007.
    assert abs(float(values.mean()) - 1.0) < 0.04
    assert abs(float(values.std()) - 0.2) < 0.03


def test_dropped_channels_are_at_their_mean_and_the_others_unchanged() -> None:
    changed = augment_eeg(EEG, AugmentConfig(drop_channels=0.25), random())
    dropped = (changed != EEG).any(dim=2)
    mean = EEG.mean(dim=2, keepdim=True).expand_as(EEG)
    assert torch.equal(changed, torch.where(dropped[:, :, None], mean, EEG))
    assert abs(float(dropped.float().mean()) - 0.25) < 0.04  # 2,400 draws: a standard error of 0.009


def test_a_sample_s_changes_are_its_own() -> None:
    config = AugmentConfig(shift_samples=3, scale_std=0.1, drop_channels=0.3)
    parts = [augment_eeg(EEG[a:b], config, random(a, b - a)) for a, b in ((0, 150), (150, 400))]
    assert torch.equal(torch.cat(parts), augment_eeg(EEG, config, random()))


@pytest.mark.parametrize("wrong", [{"shift_samples": -1}, {"scale_std": -0.1}, {"drop_channels": 1.0}])
def test_settings_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"at least 0, drop_channels in \[0, 1\)"):
        AugmentConfig(**wrong)


def test_a_shift_in_ms_is_a_shift_in_samples_of_the_data() -> None:
    sized, note = AugmentConfig(shift_ms=12.0, scale_std=0.1).sized(sfreq=1000.0, n_samples=440)
    assert (sized, note) == (AugmentConfig(shift_samples=12, scale_std=0.1), None)
    assert AugmentConfig(shift_ms=12.0).sized(sfreq=250.0, n_samples=250)[0].shift_samples == 3
    with pytest.raises(UserError, match="needs the sampling rate"):
        AugmentConfig(shift_ms=12.0).sized(sfreq=None, n_samples=440)
    with pytest.raises(ValueError, match="not both"):
        AugmentConfig(shift_ms=12.0, shift_samples=3)


@pytest.mark.parametrize("asked", [{"shift_samples": 12}, {"shift_ms": 120.0}])
def test_a_shift_is_a_small_share_of_the_segment(asked: dict) -> None:
    """12 samples either way are half of a segment of 50."""
    sized, note = AugmentConfig(**asked).sized(sfreq=100.0, n_samples=50)
    assert sized.shift_samples == 2
    assert note is not None
    assert "at most 2 samples, not 12: more than 5% of the 50 samples" in note
    wide, note = AugmentConfig(**asked, largest_shift=0.5).sized(sfreq=100.0, n_samples=50)
    assert (wide.shift_samples, note) == (12, None)
