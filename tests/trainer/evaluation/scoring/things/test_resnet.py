"""ResNet-50 against a transcription, from a state dict with torchvision's names."""

from pathlib import Path

import torch
from torch.nn import functional as F
from torchvision_files import Entries, normalised, random_entries, write_state_dict

from neuroimagen.trainer.evaluation.scoring.things.networks import open_folder
from neuroimagen.trainer.evaluation.scoring.things.resnet import build_resnet50, torchvision_name


def _conv(w: Entries, conv: str, norm: str, x: torch.Tensor, *, stride: int = 1, padding: int = 0) -> torch.Tensor:
    y = F.conv2d(x, w[f"{conv}.weight"], stride=stride, padding=padding)
    return normalised(w, norm, y, eps=1e-5)


def _pooled(w: Entries, x: torch.Tensor) -> torch.Tensor:
    x = F.max_pool2d(_conv(w, "conv1", "bn1", x, stride=2, padding=3).clamp(min=0), 3, stride=2, padding=1)
    for layer, depth in {1: 3, 2: 4, 3: 6, 4: 3}.items():
        for block in range(depth):
            name, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            y = _conv(w, f"{name}.conv1", f"{name}.bn1", x).clamp(min=0)
            y = _conv(w, f"{name}.conv2", f"{name}.bn2", y, stride=stride, padding=1).clamp(min=0)
            y = _conv(w, f"{name}.conv3", f"{name}.bn3", y)
            if block == 0:
                x = _conv(w, f"{name}.downsample.0", f"{name}.downsample.1", x, stride=stride)
            x = (x + y).clamp(min=0)
    return x.mean(dim=(2, 3))


def test_torchvisions_names_are_those_of_a_resnet50() -> None:
    with torch.device("meta"):
        network = build_resnet50()
    names = [torchvision_name(name) for name in network.state_dict()]
    assert sum(value.numel() for value in network.parameters()) == 25_557_032 - (2048 * 1000 + 1000)
    assert len(set(names)) == len(names) == 318
    assert {"conv1.weight", "bn1.running_var", "layer4.2.bn3.bias", "layer2.0.downsample.1.running_mean"} <= set(names)


def test_its_average_pool_is_that_of_the_transcription(tmp_path: Path) -> None:
    entries = random_entries(build_resnet50())
    w = {torchvision_name(name): value for name, value in entries.items()}
    unused = {"fc.bias": torch.zeros(1000)}
    network = open_folder("swav", write_state_dict(tmp_path / "swav", w, more=unused)).load().eval()
    x = torch.randn(2, 3, 64, 51, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        pooled = network(x)["swav"]
        expected = _pooled(w, x)
    assert expected.std() > 1e-3
    torch.testing.assert_close(pooled, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
