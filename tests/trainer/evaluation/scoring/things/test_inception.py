"""Inception v3 against a transcription of its blocks, from a state dict with torchvision's names."""

from pathlib import Path

import torch
from torch.nn import functional as F
from torchvision_files import Entries, normalised, random_entries, write_state_dict

from neuroimagen.trainer.evaluation.scoring.things.inception import InceptionV3
from neuroimagen.trainer.evaluation.scoring.things.networks import open_folder


def test_it_has_the_parameters_of_torchvision_without_the_two_heads() -> None:
    auxiliary = (768 * 128 + 2 * 128) + (128 * 768 * 25 + 2 * 768) + (768 * 1000 + 1000)
    with torch.device("meta"):
        network = InceptionV3()
        pooled = network.eval()(torch.empty(1, 3, 342, 342))["inception"]
    assert sum(value.numel() for value in network.parameters()) == 27_161_264 - auxiliary - (2048 * 1000 + 1000)
    assert pooled.shape == (1, 2048)


class Transcription:
    """Each convolution by its name, with its stride and padding written out."""

    def __init__(self, entries: Entries) -> None:
        self.w = entries

    def conv(self, name: str, x: torch.Tensor, *, stride: int = 1, padding: int | tuple[int, int] = 0) -> torch.Tensor:
        y = F.conv2d(x, self.w[f"{name}.conv.weight"], stride=stride, padding=padding)
        return normalised(self.w, f"{name}.bn", y, eps=1e-3).clamp(min=0)

    def a(self, block: str, x: torch.Tensor) -> torch.Tensor:
        name = f"{block}.branch"
        double = self.conv(f"{name}3x3dbl_2", self.conv(f"{name}3x3dbl_1", x), padding=1)
        return torch.cat(
            [
                self.conv(f"{name}1x1", x),
                self.conv(f"{name}5x5_2", self.conv(f"{name}5x5_1", x), padding=2),
                self.conv(f"{name}3x3dbl_3", double, padding=1),
                self.conv(f"{name}_pool", F.avg_pool2d(x, 3, stride=1, padding=1)),
            ],
            dim=1,
        )

    def b(self, block: str, x: torch.Tensor) -> torch.Tensor:
        name = f"{block}.branch"
        double = self.conv(f"{name}3x3dbl_2", self.conv(f"{name}3x3dbl_1", x), padding=1)
        return torch.cat(
            [
                self.conv(f"{name}3x3", x, stride=2),
                self.conv(f"{name}3x3dbl_3", double, stride=2),
                F.max_pool2d(x, 3, stride=2),
            ],
            dim=1,
        )

    def c(self, block: str, x: torch.Tensor) -> torch.Tensor:
        name, row, column = f"{block}.branch", (0, 3), (3, 0)
        seven = self.conv(f"{name}7x7_2", self.conv(f"{name}7x7_1", x), padding=row)
        double = self.conv(f"{name}7x7dbl_2", self.conv(f"{name}7x7dbl_1", x), padding=column)
        double = self.conv(f"{name}7x7dbl_4", self.conv(f"{name}7x7dbl_3", double, padding=row), padding=column)
        return torch.cat(
            [
                self.conv(f"{name}1x1", x),
                self.conv(f"{name}7x7_3", seven, padding=column),
                self.conv(f"{name}7x7dbl_5", double, padding=row),
                self.conv(f"{name}_pool", F.avg_pool2d(x, 3, stride=1, padding=1)),
            ],
            dim=1,
        )

    def d(self, block: str, x: torch.Tensor) -> torch.Tensor:
        name = f"{block}.branch"
        seven = self.conv(f"{name}7x7x3_2", self.conv(f"{name}7x7x3_1", x), padding=(0, 3))
        seven = self.conv(f"{name}7x7x3_3", seven, padding=(3, 0))
        return torch.cat(
            [
                self.conv(f"{name}3x3_2", self.conv(f"{name}3x3_1", x), stride=2),
                self.conv(f"{name}7x7x3_4", seven, stride=2),
                F.max_pool2d(x, 3, stride=2),
            ],
            dim=1,
        )

    def e(self, block: str, x: torch.Tensor) -> torch.Tensor:
        name, row, column = f"{block}.branch", (0, 1), (1, 0)
        three = self.conv(f"{name}3x3_1", x)
        double = self.conv(f"{name}3x3dbl_2", self.conv(f"{name}3x3dbl_1", x), padding=1)
        return torch.cat(
            [
                self.conv(f"{name}1x1", x),
                self.conv(f"{name}3x3_2a", three, padding=row),
                self.conv(f"{name}3x3_2b", three, padding=column),
                self.conv(f"{name}3x3dbl_3a", double, padding=row),
                self.conv(f"{name}3x3dbl_3b", double, padding=column),
                self.conv(f"{name}_pool", F.avg_pool2d(x, 3, stride=1, padding=1)),
            ],
            dim=1,
        )

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv("Conv2d_2a_3x3", self.conv("Conv2d_1a_3x3", x, stride=2))
        x = F.max_pool2d(self.conv("Conv2d_2b_3x3", x, padding=1), 3, stride=2)
        x = F.max_pool2d(self.conv("Conv2d_4a_3x3", self.conv("Conv2d_3b_1x1", x)), 3, stride=2)
        for block in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
            x = self.a(block, x)
        x = self.b("Mixed_6a", x)
        for block in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
            x = self.c(block, x)
        x = self.d("Mixed_7a", x)
        return self.e("Mixed_7c", self.e("Mixed_7b", x)).mean(dim=(2, 3))


def test_its_average_pool_is_that_of_the_transcription(tmp_path: Path) -> None:
    w = random_entries(InceptionV3())
    unused = {"fc.bias": torch.zeros(1000), "AuxLogits.conv0.bn.weight": torch.ones(128)}
    network = open_folder("inception", write_state_dict(tmp_path / "inception", w, more=unused)).load().eval()
    x = torch.rand(2, 3, 110, 97, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        pooled = network(x)["inception"]
        expected = Transcription(w).pooled(x)
    assert expected.std() > 1e-3
    torch.testing.assert_close(pooled, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
