"""The saliency map: a conditional GAN from EEG features to a small image, and its losses.

G(z, f_θ(x)) generates, D(image, f_θ(x)) discriminates (reference: Lan et al. 2023, arXiv 2308.02510, §3.2).
Shapes: B samples, F features, Z noise, S pixels a side. Pictures are [B, 3, S, S] in [-1, 1].
"""

import itertools
import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder
from neuroimagen.trainer.networks.pretrained import PretrainedModule
from neuroimagen.trainer.networks.randomness import StepRandom

_SMALLEST_PX = 4  # side of the discriminator's last feature map
_SEED_PX = 8  # side of the generator's first feature map


def _levels(image_size_px: int, end_px: int) -> int:
    """Halvings from the image's side to `end_px`."""
    levels = round(math.log2(image_size_px / end_px)) if image_size_px > 0 else 0
    if levels < 1 or end_px * 2**levels != image_size_px:
        raise ValueError(f"the saliency map's size must be a power of two, at least 16 px, got {image_size_px}")
    return levels


class Generator(nn.Module):
    """G: noise [B, Z] and features [B, F] → image [B, 3, S, S].

    Where things are is spread over all features, so two dense layers lay out an 8×8 map before any convolution: with a
    single one, G took three times as many steps to place an object. The last doubling is a pixel shuffle, which leaves
    the full resolution to one cheap layer (a 3×3 convolution at S = 64 costs as much as all layers below together).
    """

    def __init__(self, *, feature_size: int, noise_size: int, image_size_px: int, width: int, hidden_size: int) -> None:
        super().__init__()
        levels = _levels(image_size_px, _SEED_PX)
        widths = [max(8, width >> level) for level in range(levels)]
        self.feature_norm = nn.LayerNorm(feature_size)
        self.layout = nn.Sequential(
            nn.Linear(feature_size + noise_size, hidden_size),
            nn.GELU(),
            nn.Linear(hidden_size, hidden_size),
            nn.GELU(),
            nn.Linear(hidden_size, widths[0] * _SEED_PX**2),
            nn.GELU(),
        )
        self.convolutions = nn.ModuleList(
            [nn.Conv2d(inner, outer, 3, padding=1, bias=False) for inner, outer in itertools.pairwise(widths)]
        )
        self.norms = nn.ModuleList([nn.GroupNorm(8, outer) for outer in widths[1:]])
        self.to_pixels = nn.Conv2d(widths[-1], 3 * 4, 3, padding=1)

    def forward(self, z: Tensor, features: Tensor) -> Tensor:
        x = self.layout(torch.cat([self.feature_norm(features), z], dim=1)).view(len(z), -1, _SEED_PX, _SEED_PX)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.gelu(norm(convolution(F.interpolate(x, scale_factor=2.0, mode="nearest"))))
        return torch.tanh(F.pixel_shuffle(self.to_pixels(x), 2))


class Discriminator(nn.Module):
    """D: image [B, 3, S, S] and features [B, F] → score [B]; a projection discriminator (Miyato, Koyama 2018)."""

    def __init__(self, *, feature_size: int, image_size_px: int, width: int) -> None:
        super().__init__()
        levels = _levels(image_size_px, _SMALLEST_PX) - 1
        widths = [max(8, width >> (levels - 1 - level)) for level in range(levels)]
        # The first layer halves twice, because full resolution is where the cost is.
        layers: list[nn.Module] = [spectral_norm(nn.Conv2d(3, widths[0], 6, stride=4, padding=1)), nn.LeakyReLU(0.2)]
        for inner, outer in itertools.pairwise(widths):
            layers += [spectral_norm(nn.Conv2d(inner, outer, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers)
        self.feature_norm = nn.LayerNorm(feature_size)
        self.condition = nn.Linear(feature_size, widths[-1])
        self.score = nn.Linear(widths[-1], 1)

    def forward(self, images: Tensor, features: Tensor) -> Tensor:
        pooled = self.body(images).mean(dim=(2, 3))
        match = (pooled * self.condition(self.feature_norm(features))).sum(dim=1) / math.sqrt(pooled.shape[1])
        return self.score(pooled).squeeze(1) + match


class SaliencyModel(PretrainedModule):
    """EEG [B, C, T] and noise [B, Z] → saliency map [B, 3, S, S] in [-1, 1]: an encoder f_θ and the generator G."""

    model_type: ClassVar[str] = "saliency-model"

    def __init__(
        self, *, encoder: dict[str, Any], noise_size: int, image_size_px: int, width: int, hidden_size: int = 256
    ) -> None:
        super().__init__()
        generator = {
            "noise_size": noise_size,
            "image_size_px": image_size_px,
            "width": width,
            "hidden_size": hidden_size,
        }
        self.config = {"encoder": encoder, **generator}
        self.noise_size = noise_size
        self.image_size_px = image_size_px
        self.encoder = EEGEncoder(**encoder)
        self.generator = Generator(feature_size=self.encoder.feature_size, **generator)

    def forward(self, eeg: Tensor, z: Tensor, subject: Tensor | None = None, *, return_features: bool = False) -> Any:
        """Saliency maps [K·B, 3, S, S] for noise [K·B, Z]: K draws per segment, draw after draw; the encoder runs once.

        With `return_features`: (maps, features [B, F] they were drawn from). subject: int64 [B], for subject layers.
        """
        features = self.encoder(eeg, subject)
        images = self.generator(z, features.repeat(len(z) // len(eeg), 1))
        return (images, features) if return_features else images


# --- losses ---------------------------------------------------------------------------------------------------------


def discriminator_hinge(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """mean(max(0, 1 − D(real))) + mean(max(0, 1 + D(fake)))."""
    return F.relu(1.0 - real_scores).mean() + F.relu(1.0 + fake_scores).mean()


def generator_hinge(fake_scores: Tensor) -> Tensor:
    """−mean(D(fake))."""
    return -fake_scores.mean()


def mode_seeking(first: Tensor, second: Tensor, first_z: Tensor, second_z: Tensor) -> Tensor:
    """1 / (mean|x1 − x2| / mean|z1 − z2| + 1e-5) (Mao et al. 2019): small when other noise gives another image.

    Taken per pair and then averaged (the published code inverts the batch's mean ratio): an average over samples is the
    same on one rank or many.
    """
    ratio = (first - second).abs().flatten(1).mean(1) / (first_z - second_z).abs().mean(1)
    return (1.0 / (ratio + 1e-5)).mean()


def _gaussian_window(size: int, sigma: float, device: torch.device) -> Tensor:
    positions = torch.arange(size, dtype=torch.float32, device=device) - (size - 1) / 2
    window = torch.exp(-positions.square() / (2 * sigma**2))
    return window / window.sum()


def ssim(first: Tensor, second: Tensor, *, data_range: float = 2.0, window: int = 11, sigma: float = 1.5) -> Tensor:
    """Structural similarity [B] of images [B, 3, S, S]: gaussian window, mean over pixels and RGB (Wang et al. 2004).

    `data_range` is the span of the values (2 for [-1, 1]); borders where the window does not fit are left out.
    evaluation/scoring/structural_similarity.py states why the evaluation has an implementation of its own.
    """
    channels = first.shape[1]
    weights = _gaussian_window(window, sigma, first.device).expand(channels, 1, 1, -1)

    def blur(x: Tensor) -> Tensor:
        rows = F.conv2d(x, weights, groups=channels)
        return F.conv2d(rows, weights.transpose(2, 3), groups=channels)

    mean_x, mean_y = blur(first), blur(second)
    var_x = blur(first * first) - mean_x.square()
    var_y = blur(second * second) - mean_y.square()
    covariance = blur(first * second) - mean_x * mean_y
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    value = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    value = value / ((mean_x.square() + mean_y.square() + c1) * (var_x + var_y + c2))
    return value.flatten(1).mean(1)


def pixel_correlation(first: Tensor, second: Tensor) -> Tensor:
    """PixCorr [B]: Pearson's correlation over all pixels and channels of each pair of images."""
    x = first.flatten(1) - first.flatten(1).mean(1, keepdim=True)
    y = second.flatten(1) - second.flatten(1).mean(1, keepdim=True)
    return (x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1)).clamp_min(1e-12)


# --- differentiable augmentation ------------------------------------------------------------------------------------


def diff_augment(images: Tensor, random: StepRandom, purpose: str) -> Tensor:
    """Colour, translation and cutout on [B, 3, S, S], differentiable (Zhao et al. 2020, DiffAugment).

    Brightness ±0.5, saturation ×0..2, contrast ×0.5..1.5; shift up to S/8, filled with zeros; a square of S/2 set to
    zero. The draws are the samples' own: use another `purpose` for another batch of the same step.
    """
    size = images.shape[-1]
    draws = random.uniform(purpose, 7).view(-1, 7, 1, 1, 1)[: len(images)]
    brightness, saturation, contrast, shift_y, shift_x, cut_y, cut_x = draws.unbind(1)
    x = images + (brightness - 0.5)
    grey = x.mean(dim=1, keepdim=True)
    x = (x - grey) * (saturation * 2.0) + grey
    level = x.mean(dim=(1, 2, 3), keepdim=True)
    x = (x - level) * (contrast + 0.5) + level

    reach = size // 8
    positions = torch.arange(size, device=images.device)
    rows = positions - (torch.floor(shift_y * (2 * reach + 1)) - reach).long().view(
        -1, 1
    )  # [B, S] source row of each row
    columns = positions - (torch.floor(shift_x * (2 * reach + 1)) - reach).long().view(-1, 1)
    inside = ((rows >= 0) & (rows < size))[:, :, None] & ((columns >= 0) & (columns < size))[:, None, :]
    batch = torch.arange(len(x), device=images.device)[:, None, None]
    moved = x.permute(0, 2, 3, 1)[batch, rows.clamp(0, size - 1)[:, :, None], columns.clamp(0, size - 1)[:, None, :]]
    x = moved.permute(0, 3, 1, 2) * inside[:, None]

    half = size // 2
    top = torch.floor(cut_y * (size + 1)).long().view(-1, 1) - half // 2
    left = torch.floor(cut_x * (size + 1)).long().view(-1, 1) - half // 2
    in_rows = (positions >= top) & (positions < top + half)
    in_columns = (positions >= left) & (positions < left + half)
    cut = in_rows[:, :, None] & in_columns[:, None, :]
    return x * ~cut[:, None]
