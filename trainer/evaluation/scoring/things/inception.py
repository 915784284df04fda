"""Inception v3 as torchvision has it, as far as its average pool: one of the networks of the `things` preset."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import nn
from torch.nn import functional as F

Kernel = int | tuple[int, int]


class Convolution(nn.Module):
    """Convolution without bias, batch normalisation, rectification."""

    def __init__(self, num_in: int, num_out: int, kernel: Kernel, *, stride: int = 1, same: bool = True) -> None:
        """`same`: the map keeps its size, by zeros around it; else only places whose window lies inside are kept."""
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = tuple(side // 2 for side in sides) if same else 0
        self.conv = nn.Conv2d(num_in, num_out, sides, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(num_out, eps=1e-3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Branches side by side, their maps concatenated (Szegedy et al. 2016, figures 5 to 7 and 10).

    A branch is a chain of convolutions; its last one can be two, both of which read the one before.
    """

    def __init__(
        self,
        num_in: int,
        branches: Sequence[Sequence[tuple[str, int, Kernel]]],
        *,
        pooled: int | None,
    ) -> None:
        """`branches`: of each, (name, channels, kernel) of its convolutions. Names that end in `a` and `b` are a pair.

        `pooled`: channels of the branch that averages 3 × 3 places first. None: the block halves the map; the last
        convolution of every branch then has stride 2, and a branch without weights takes the maximum of 3 × 3 places.
        """
        super().__init__()
        self._chains: list[list[list[str]]] = []
        self._halves = pooled is None
        for branch in branches:
            chain: list[list[str]] = []
            width = num_in
            for number, (name, channels, kernel) in enumerate(branch):
                halving = self._halves and number == len(branch) - 1
                self.add_module(
                    name, Convolution(width, channels, kernel, stride=2 if halving else 1, same=not halving)
                )
                if name.endswith("b"):
                    chain[-1].append(name)
                else:
                    chain.append([name])
                if not name.endswith("a"):
                    width = channels
            self._chains.append(chain)
        if pooled is not None:
            self.branch_pool = Convolution(num_in, pooled, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs = []
        for chain in self._chains:
            maps = x
            for names in chain:
                maps = torch.cat([self.get_submodule(name)(maps) for name in names], dim=1)
            outputs.append(maps)
        if self._halves:
            outputs.append(F.max_pool2d(x, kernel_size=3, stride=2))
        else:
            outputs.append(self.branch_pool(F.avg_pool2d(x, kernel_size=3, stride=1, padding=1)))
        return torch.cat(outputs, dim=1)


def _mixed_35(num_in: int, pooled: int) -> Mixed:
    """A block of the maps of 35 × 35 places (for a picture of 299 px)."""
    branches: list[list[tuple[str, int, Kernel]]] = [
        [("branch1x1", 64, 1)],
        [("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)],
        [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)],
    ]
    return Mixed(num_in, branches, pooled=pooled)


def _mixed_17(width: int) -> Mixed:
    """A block of the maps of 17 × 17 places; `width`: channels of its inner convolutions."""
    row, column = (1, 7), (7, 1)
    branches: list[list[tuple[str, int, Kernel]]] = [
        [("branch1x1", 192, 1)],
        [("branch7x7_1", width, 1), ("branch7x7_2", width, row), ("branch7x7_3", 192, column)],
        [
            ("branch7x7dbl_1", width, 1),
            ("branch7x7dbl_2", width, column),
            ("branch7x7dbl_3", width, row),
            ("branch7x7dbl_4", width, column),
            ("branch7x7dbl_5", 192, row),
        ],
    ]
    return Mixed(768, branches, pooled=192)


def _mixed_8(num_in: int) -> Mixed:
    """A block of the maps of 8 × 8 places."""
    row, column = (1, 3), (3, 1)
    branches: list[list[tuple[str, int, Kernel]]] = [
        [("branch1x1", 320, 1)],
        [("branch3x3_1", 384, 1), ("branch3x3_2a", 384, row), ("branch3x3_2b", 384, column)],
        [
            ("branch3x3dbl_1", 448, 1),
            ("branch3x3dbl_2", 384, 3),
            ("branch3x3dbl_3a", 384, row),
            ("branch3x3dbl_3b", 384, column),
        ],
    ]
    return Mixed(num_in, branches, pooled=192)


def _to_17() -> Mixed:
    branches: list[list[tuple[str, int, Kernel]]] = [
        [("branch3x3", 384, 3)],
        [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)],
    ]
    return Mixed(288, branches, pooled=None)


def _to_8() -> Mixed:
    branches: list[list[tuple[str, int, Kernel]]] = [
        [("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3)],
        [
            ("branch7x7x3_1", 192, 1),
            ("branch7x7x3_2", 192, (1, 7)),
            ("branch7x7x3_3", 192, (7, 1)),
            ("branch7x7x3_4", 192, 3),
        ],
    ]
    return Mixed(768, branches, pooled=None)


class InceptionV3(nn.Module):
    """Inception v3 (Szegedy et al. 2016) without its class scores, with the names of torchvision's state dict.

    Its weights were ported from TensorFlow and want pixels in [−1, 1]: torchvision rescales pixels that are normalised
    by ImageNet's mean and deviation to that range; here they are given in it.
    """

    LAYER: ClassVar[Literal["inception"]] = "inception"
    UNUSED: ClassVar = ("AuxLogits.", "fc.")
    """Prefixes of the state dict that the features do not need."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, 3, stride=2, same=False)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3, same=False)
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3)
        self.maxpool1 = nn.MaxPool2d(kernel_size=3, stride=2)
        self.Conv2d_3b_1x1 = Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3, same=False)
        self.maxpool2 = nn.MaxPool2d(kernel_size=3, stride=2)
        self.Mixed_5b = _mixed_35(192, 32)
        self.Mixed_5c = _mixed_35(256, 64)
        self.Mixed_5d = _mixed_35(288, 64)
        self.Mixed_6a = _to_17()
        self.Mixed_6b = _mixed_17(128)
        self.Mixed_6c = _mixed_17(160)
        self.Mixed_6d = _mixed_17(160)
        self.Mixed_6e = _mixed_17(192)
        self.Mixed_7a = _to_8()
        self.Mixed_7b = _mixed_8(1280)
        self.Mixed_7c = _mixed_8(2048)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Pixels [n, 3, H, W] in [−1, 1] → the average pool, [n, 2048]; H and W are at least 75."""
        for module in self.children():  # in the order in which they are defined
            x = module(x)
        return {self.LAYER: x.mean(dim=(2, 3))}
