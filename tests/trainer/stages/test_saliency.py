"""The saliency stage: its losses from the networks' outputs, its weights, and the noise of validation."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuroimagen.data_shards.loading.reader import Batch
from neuroimagen.trainer.networks.encoders.eeg_encoder import build_encoder
from neuroimagen.trainer.networks.encoders.registry import encoder_config
from neuroimagen.trainer.networks.gan import mode_seeking, ssim
from neuroimagen.trainer.networks.randomness import StepRandom
from neuroimagen.trainer.stages.saliency import SaliencyConfig, SaliencyStage, pixels, row_noise

OFF = {"adversarial_weight": 0.0, "mode_seeking_weight": 0.0, "ssim_weight": 0.0}
SMALL = {"image_size_px": 16, "noise_size": 5, "generator_width": 16, "discriminator_width": 16}


def step_random() -> StepRandom:
    return StepRandom(3, 4, first=0, count=6, device=torch.device("cpu"))


class Generator(nn.Module):
    """Draws `images` whatever it is given, once for each draw of z."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.images = images
        self.seen: list[Tensor] = []

    def forward(self, eeg: Tensor, z: Tensor, subject: Tensor, *, return_features: bool) -> tuple[Tensor, Tensor]:
        assert return_features
        self.seen.append(z)
        return self.images[: len(z)], torch.ones(len(eeg), 4, requires_grad=True)


class Discriminator(nn.Module):
    """Scores an image by its mean."""

    def __init__(self) -> None:
        super().__init__()
        self.features: list[Tensor] = []

    def forward(self, images: Tensor, features: Tensor) -> Tensor:
        self.features.append(features)
        return images.mean(dim=(1, 2, 3))


@pytest.fixture
def batch() -> Batch:
    return Batch(
        eeg=torch.zeros(6, 3, 64),
        label=torch.zeros(6, dtype=torch.int64),
        subject=torch.ones(6, dtype=torch.int64),
        stimulus=torch.arange(6),
        rows=torch.arange(6),
        images=torch.randint(0, 256, (6, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8),
        latents={},
    )


def stage(**settings: Any) -> SaliencyStage:
    encoder = build_encoder(encoder_config(feature_size=4), n_channels=3, n_samples=64)
    return SaliencyStage(SaliencyConfig(**SMALL, **settings), encoder=encoder.config, initial_encoder=None)


def drawn() -> Tensor:
    return torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def generator_loss(batch: Batch, **settings: Any) -> tuple[float, dict[str, float], Generator]:
    made = stage(**{**OFF, **settings})
    networks = {"generator": Generator(drawn()), "discriminator": Discriminator()}
    loss, figures = made._generator_loss(networks, batch, step_random())
    return float(loss), {name: float(value) for name, value in figures.items()}, networks["generator"]


def test_each_weight_multiplies_its_own_term(batch: Batch) -> None:
    first, real = drawn()[:6], pixels(batch.images)
    similarity = float(ssim(first, real).mean())
    distance = float((first - real).abs().mean())
    loss, figures, generator = generator_loss(batch, ssim_weight=2.0, pixel_weight=3.0)
    assert loss == pytest.approx(2.0 * (1 - similarity) + 3.0 * distance, rel=1e-5)
    assert figures == pytest.approx({"ssim": similarity, "pixel": distance}, rel=1e-5)
    assert [len(z) for z in generator.seen] == [6]  # one draw where nothing compares two

    loss, figures, generator = generator_loss(batch, ssim_weight=1.0, mode_seeking_weight=0.5)
    (z,) = generator.seen
    expected = float(mode_seeking(first, drawn()[6:], *z.chunk(2)))
    assert len(z) == 12
    assert loss == pytest.approx((1 - similarity) + 0.5 * expected, rel=1e-5)


def test_the_adversarial_loss_does_not_reach_the_encoder_by_way_of_the_discriminator(batch: Batch) -> None:
    made = stage(**{**OFF, "adversarial_weight": 2.0})
    networks = {"generator": Generator(drawn()), "discriminator": Discriminator()}
    loss, figures = made._generator_loss(networks, batch, step_random())
    assert float(loss) == pytest.approx(2.0 * float(figures["adversarial"]), rel=1e-6)
    (features,) = networks["discriminator"].features
    assert not features.requires_grad


def test_the_discriminator_s_loss_is_the_hinge_of_both_halves(batch: Batch) -> None:
    made = stage(**{**OFF, "adversarial_weight": 1.0})
    networks = {"generator": Generator(drawn()), "discriminator": Discriminator()}
    loss, figures = made._discriminator_loss(networks, batch, step_random())
    # Means of images lie in [-1, 1], where both hinges are linear.
    assert float(loss) == pytest.approx(2.0 - float(figures["real_score"]) + float(figures["fake_score"]), rel=1e-5)


def test_the_noise_of_a_row_is_its_own_and_normal() -> None:
    assert torch.equal(row_noise(7, 64), row_noise(7, 64))
    assert not torch.equal(row_noise(7, 64), row_noise(8, 64))
    values = torch.stack([row_noise(row, 64) for row in range(200)])
    assert abs(float(values.mean())) < 0.04  # 12,800 draws: a standard error of 0.009
    assert abs(float(values.std()) - 1.0) < 0.04


def test_the_two_networks_have_their_own_learning_rates() -> None:
    made = stage(learning_rate=1e-3, discriminator_learning_rate=5e-4)
    assert (made.learning_rate("generator"), made.learning_rate("discriminator")) == (1e-3, 5e-4)
    assert made.needs.image_size_px == 16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ssim_weight": -1.0}, "ssim_weight must not be negative, got -1.0"),
        (OFF, "at least one of adversarial_weight, ssim_weight and pixel_weight must be positive"),
        ({"image_size_px": 8}, "a power of two, at least 16, got 8"),
        ({"image_size_px": 48}, "a power of two, at least 16, got 48"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SaliencyConfig(**settings)
