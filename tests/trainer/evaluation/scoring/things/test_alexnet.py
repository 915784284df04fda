"""AlexNet against its equations, from a state dict with torchvision's names."""

from pathlib import Path

import torch
from torch.nn import functional as F
from torchvision_files import random_entries, write_state_dict

from neuroimagen.trainer.evaluation.scoring.things.alexnet import AlexNet
from neuroimagen.trainer.evaluation.scoring.things.networks import open_folder


def test_it_has_the_parameters_of_torchvision_without_the_linear_layers() -> None:
    linear = sum(inner * outer + outer for inner, outer in ((9216, 4096), (4096, 4096), (4096, 1000)))
    with torch.device("meta"):
        network = AlexNet()
        layers = network(torch.empty(1, 3, 256, 256))
    assert sum(value.numel() for value in network.parameters()) == 61_100_840 - linear
    assert {layer: values.shape[1] for layer, values in layers.items()} == {
        "alexnet2": 192 * 31 * 31,
        "alexnet5": 256 * 15 * 15,
    }


def test_its_layers_are_the_rectified_second_and_fifth_convolutions(tmp_path: Path) -> None:
    w = random_entries(AlexNet())
    unused = {"classifier.6.bias": torch.zeros(1000)}
    network = open_folder("alexnet", write_state_dict(tmp_path / "alexnet", w, more=unused)).load()
    x = torch.randn(2, 3, 100, 83, generator=torch.Generator().manual_seed(1))

    def convolution(number: int, maps: torch.Tensor, *, stride: int = 1, padding: int) -> torch.Tensor:
        weight, bias = w[f"features.{number}.weight"], w[f"features.{number}.bias"]
        return F.conv2d(maps, weight, bias, stride=stride, padding=padding).clamp(min=0)

    second = convolution(3, F.max_pool2d(convolution(0, x, stride=4, padding=2), 3, 2), padding=2)
    third = convolution(6, F.max_pool2d(second, 3, 2), padding=1)
    fifth = convolution(10, convolution(8, third, padding=1), padding=1)
    with torch.inference_mode():
        layers = network(x)
    torch.testing.assert_close(layers["alexnet2"], second.flatten(1))
    torch.testing.assert_close(layers["alexnet5"], fifth.flatten(1))
