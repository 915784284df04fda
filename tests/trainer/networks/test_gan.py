"""The GAN's parts and losses, against plain definitions and other implementations."""

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from neuroimagen.trainer.networks.encoders.eeg_encoder import build_encoder
from neuroimagen.trainer.networks.encoders.registry import encoder_config
from neuroimagen.trainer.networks.gan import (
    Discriminator,
    Generator,
    SaliencyModel,
    diff_augment,
    discriminator_hinge,
    generator_hinge,
    mode_seeking,
    pixel_correlation,
    ssim,
)
from neuroimagen.trainer.networks.randomness import StepRandom


def pictures(count: int, size: int = 24, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, size // 4, size // 4, generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(-1, 1)


def step_random(count: int, *, first: int = 0) -> StepRandom:
    return StepRandom(3, 4, first=first, count=count, device=torch.device("cpu"))


def test_ssim_is_scikit_image_s() -> None:
    first, second = pictures(3), (pictures(3) + 0.3 * pictures(3, seed=1)).clamp(-1, 1)
    ours = ssim(first, second)
    for index in range(3):
        # scikit-image leaves out the same border; its sigma of 1.5 cuts the window at 11 pixels.
        theirs = structural_similarity(
            first[index].numpy().astype(np.float64),
            second[index].numpy().astype(np.float64),
            channel_axis=0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=2.0,
        )
        assert ours[index].item() == pytest.approx(theirs, abs=1e-5)
    assert torch.allclose(ssim(first, first), torch.ones(3))


def test_pixel_correlation_is_pearson_s() -> None:
    first, second = pictures(4), pictures(4, seed=1)
    expected = [np.corrcoef(a.numpy().ravel(), b.numpy().ravel())[0, 1] for a, b in zip(first, second, strict=True)]
    assert pixel_correlation(first, second).numpy() == pytest.approx(np.array(expected), abs=1e-5)
    assert torch.equal(pixel_correlation(torch.zeros(1, 3, 8, 8), first[:1, :, :8, :8]), torch.zeros(1))


def test_adversarial_losses_by_hand() -> None:
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.5])
    assert discriminator_hinge(real, fake).item() == pytest.approx(0.25 + 0.75)
    assert generator_hinge(fake).item() == pytest.approx(1.25)
    x, z = pictures(2), torch.randn(2, 5)
    same = mode_seeking(x, x, z, -z)
    other = mode_seeking(x, x + 0.2, z, -z)
    assert same.item() == pytest.approx(1e5, rel=1e-3)
    expected = (1.0 / (0.2 / (2 * z).abs().mean(1) + 1e-5)).mean()
    assert other.item() == pytest.approx(expected.item(), rel=1e-4)


def test_augmentation_is_the_sample_s_own_and_differentiable() -> None:
    images = pictures(6, size=32).requires_grad_()
    whole = diff_augment(images, step_random(6), "real")
    parts = [diff_augment(images[a:b], step_random(b - a, first=a), "real") for a, b in ((0, 2), (2, 6))]
    assert torch.allclose(whole, torch.cat(parts), atol=1e-6)
    assert not torch.allclose(whole, diff_augment(images, step_random(6), "fake"))
    (gradient,) = torch.autograd.grad(whole.square().sum(), images)
    assert torch.isfinite(gradient).all()
    # A square of a quarter of the picture is cut out, less where it hangs over the border.
    cut = (whole == 0).all(dim=1).float().mean(dim=(1, 2))
    assert ((cut > 0.05) & (cut < 0.5)).all()


@pytest.mark.parametrize("size", [16, 32, 64, 128])
def test_networks_fit_every_size(size: int) -> None:
    features, z = torch.randn(2, 10), torch.randn(2, 6)
    images = Generator(feature_size=10, noise_size=6, image_size_px=size, width=32, hidden_size=12)(z, features)
    assert images.shape == (2, 3, size, size)
    assert images.abs().max() <= 1
    assert Discriminator(feature_size=10, image_size_px=size, width=16)(images, features).shape == (2,)


@pytest.mark.parametrize("size", [8, 48])
def test_other_sizes_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"got {size}"):
        Generator(feature_size=10, noise_size=6, image_size_px=size, width=32, hidden_size=12)


def test_two_draws_share_one_encoding() -> None:
    encoder = build_encoder(encoder_config(feature_size=8), n_channels=4, n_samples=64)
    model = SaliencyModel(encoder=encoder.config, noise_size=5, image_size_px=16, width=16, hidden_size=12).eval()
    eeg, z = torch.randn(3, 4, 64), torch.randn(6, 5)
    images, features = model(eeg, z, return_features=True)
    assert torch.allclose(images[:3], model(eeg, z[:3]), atol=1e-5)
    assert torch.allclose(images[3:], model(eeg, z[3:]), atol=1e-5)
    assert torch.equal(features, model.encoder(eeg))
