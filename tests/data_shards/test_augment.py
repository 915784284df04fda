"""Augmentation: what it does, and that it depends on (seed, epoch, row) alone."""

import numpy as np
import pytest
import torch

from neuroimagen.data_shards.augment import Augmentation, AugmentOptions, MixupPool
from neuroimagen.data_shards.common.errors import UserError

EEG = torch.from_numpy(np.random.default_rng(0).standard_normal((12, 5, 40)).astype(np.float32))
ROWS = torch.arange(100, 112)
ALL = AugmentOptions(mixup=0.3, time_shift=4, scale=0.2, channel_dropout=0.3, noise=0.5)


def _apply(options: AugmentOptions, chosen: slice | list[int] = slice(None), *, epoch: int = 0, seed: int = 0):
    partners = EEG.flip(0)[chosen] if options.mixup else None
    return Augmentation(options, seed=seed)(EEG[chosen], ROWS[chosen], epoch=epoch, partners=partners)


def test_a_segment_is_augmented_alike_in_any_batch() -> None:
    whole = _apply(ALL)
    for part in (slice(0, 5), slice(5, 12), [3], [11, 2, 7]):
        assert torch.equal(_apply(ALL, part), whole[part])


def test_epochs_and_seeds_differ_and_repeat() -> None:
    assert torch.equal(_apply(ALL), _apply(ALL))
    assert not torch.equal(_apply(ALL), _apply(ALL, epoch=1))
    assert not torch.equal(_apply(ALL), _apply(ALL, seed=1))


def test_nothing_asked_nothing_done_and_the_input_is_left_alone() -> None:
    assert torch.equal(_apply(AugmentOptions()), EEG)
    before = EEG.clone()
    _apply(ALL)
    assert torch.equal(EEG, before)


def test_shift_moves_samples_and_repeats_the_edge() -> None:
    shifted = _apply(AugmentOptions(time_shift=6))
    seen = set()
    for before, after in zip(EEG.numpy(), shifted.numpy(), strict=True):
        fits = [s for s in range(-6, 7) if np.array_equal(after, before[:, np.clip(np.arange(40) - s, 0, 39)])]
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) > 4


def test_scale_dropout_noise_have_the_size_asked_for() -> None:
    ratio = _apply(AugmentOptions(scale=0.2)) / EEG
    per_segment = ratio[:, 0, 0]
    torch.testing.assert_close(ratio, per_segment[:, None, None].expand_as(ratio))
    assert per_segment.log().abs().max() <= 0.2
    assert per_segment.std() > 0.03
    many = torch.ones(400, 10, 3)
    rows = torch.arange(400)
    dropped = (Augmentation(AugmentOptions(channel_dropout=0.3), seed=0)(many, rows, epoch=0) == 0).all(dim=2)
    assert dropped.float().mean() == pytest.approx(0.3, abs=0.03)
    noise = Augmentation(AugmentOptions(noise=0.5), seed=0)(EEG * 7, ROWS, epoch=0) - EEG * 7
    assert noise.std() == pytest.approx(3.5, rel=0.1)


def test_mixup_is_a_weighted_mean_with_a_segment_of_the_class() -> None:
    mixed = _apply(AugmentOptions(mixup=0.5))
    weight = (mixed - EEG) / (EEG.flip(0) - EEG)
    per_segment = weight.flatten(1).median(dim=1).values
    torch.testing.assert_close(mixed, torch.lerp(EEG, EEG.flip(0), per_segment[:, None, None]), atol=1e-4, rtol=1e-4)
    assert per_segment.min() >= 0
    assert per_segment.max() <= 0.5
    with pytest.raises(ValueError, match="partners"):
        Augmentation(AugmentOptions(mixup=0.5), seed=0)(EEG, ROWS, epoch=0)
    labels = np.arange(60) % 3
    pool = MixupPool(np.arange(60) + 500, labels, seed=0)
    wanted = np.arange(60, 90)
    partners = pool.partners(wanted % 3, wanted, epoch=0)
    assert ((partners - 500) % 3 == wanted % 3).all()
    assert len(np.unique(partners)) > 10
    assert (pool.partners(wanted[5:9] % 3, wanted[5:9], epoch=0) == partners[5:9]).all()
    with pytest.raises(UserError, match="no rows to mix with"):
        pool.partners(np.array([3]), np.array([0]), epoch=0)


@pytest.mark.parametrize("wrong", [{"mixup": 0.6}, {"noise": -1}, {"channel_dropout": 1.1}, {"time_shift": -1}])
def test_wrong_options_are_named(wrong: dict) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        AugmentOptions(**wrong)
