"""AlexNet as torchvision has it, as far as its last convolution: one of the networks of the `things` preset."""

from typing import ClassVar

import torch
from torch import nn


class AlexNet(nn.Module):
    """The convolutions of AlexNet (Krizhevsky 2014), with the names of torchvision's state dict.

    The linear layers are left out: no metric reads them.
    """

    LAYERS: ClassVar = {"alexnet2": 4, "alexnet5": 11}
    """Layer → its place in `features`: the rectified outputs of the second and of the fifth convolution."""
    UNUSED: ClassVar = ("classifier.",)
    """Prefixes of the state dict that the features do not need."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(64, 192, kernel_size=5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(192, 384, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, kernel_size=3, padding=1),
            nn.ReLU(),
        )

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Normalised pixels [n, 3, H, W] → layer → flat activations [n, D]."""
        places = {place: layer for layer, place in self.LAYERS.items()}
        found = {}
        for place, module in enumerate(self.features):
            x = module(x)
            if place in places:
                found[places[place]] = x.flatten(1)
        return found
