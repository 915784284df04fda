"""EfficientNet-B1 as torchvision has it, as far as its average pool: one of the networks of the `things` preset.

transformers' EfficientNet cannot hold these weights: it pads as TensorFlow does, and its own were trained otherwise.
"""

from typing import ClassVar

import torch
from torch import nn

_STAGES = (
    # expansion, kernel, stride, channels, blocks
    (1, 3, 1, 16, 2),
    (6, 3, 2, 24, 3),
    (6, 5, 2, 40, 3),
    (6, 3, 2, 80, 4),
    (6, 5, 1, 112, 4),
    (6, 5, 2, 192, 5),
    (6, 3, 1, 320, 2),
)
"""Tan and Le 2019, table 1, with the depths of B1."""
_STEM, _HEAD = 32, 1280


def _convolution(
    num_in: int, num_out: int, kernel: int, *, stride: int = 1, groups: int = 1, activated: bool = True
) -> nn.Sequential:
    """Convolution without bias, batch normalisation, and SiLU where it is `activated`."""
    convolution = nn.Conv2d(num_in, num_out, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(num_out), *([nn.SiLU()] if activated else []))


class SqueezeExcitation(nn.Module):
    """Scales channels by a function of their means over the map (Hu et al. 2018)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = nn.functional.silu(self.fc1(x.mean(dim=(2, 3), keepdim=True)))
        scaled: torch.Tensor = x * torch.sigmoid(self.fc2(hidden))
        return scaled


class InvertedBottleneck(nn.Module):
    """Expansion, convolution of each channel, squeeze and excitation, projection; added to the input where it fits."""

    def __init__(self, num_in: int, num_out: int, *, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        width = expansion * num_in
        self.block = nn.Sequential(
            *([_convolution(num_in, width, 1)] if expansion > 1 else []),
            _convolution(width, width, kernel, stride=stride, groups=width),
            SqueezeExcitation(width, num_in // 4),
            _convolution(width, num_out, 1, activated=False),
        )
        self._is_residual = stride == 1 and num_in == num_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.block(x)
        return x + out if self._is_residual else out


class EfficientNetB1(nn.Module):
    """EfficientNet-B1 (Tan and Le 2019) without its class scores, with the names of torchvision's state dict."""

    UNUSED: ClassVar = ("classifier.",)
    """Prefixes of the state dict that the features do not need."""

    def __init__(self) -> None:
        super().__init__()
        parts = [_convolution(3, _STEM, 3, stride=2)]
        width = _STEM
        for expansion, kernel, stride, channels, num_blocks in _STAGES:
            blocks = []
            for number in range(num_blocks):
                blocks.append(
                    InvertedBottleneck(
                        width, channels, expansion=expansion, kernel=kernel, stride=stride if number == 0 else 1
                    )
                )
                width = channels
            parts.append(nn.Sequential(*blocks))
        self.features = nn.Sequential(*parts, _convolution(width, _HEAD, 1))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Normalised pixels [n, 3, H, W] → the average pool, [n, 1280]."""
        return {"efficientnet": self.features(x).mean(dim=(2, 3))}
