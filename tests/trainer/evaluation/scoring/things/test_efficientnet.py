"""EfficientNet-B1 against a transcription, from a state dict with torchvision's names."""

from pathlib import Path

import torch
from torch.nn import functional as F
from torchvision_files import Entries, normalised, random_entries, write_state_dict

from neuroimagen.trainer.evaluation.scoring.things.efficientnet import EfficientNetB1
from neuroimagen.trainer.evaluation.scoring.things.networks import open_folder


def test_it_has_the_parameters_of_torchvision_without_the_class_scores() -> None:
    with torch.device("meta"):
        network = EfficientNetB1()
        pooled = network.eval()(torch.empty(1, 3, 255, 255))["efficientnet"]
    assert sum(value.numel() for value in network.parameters()) == 7_794_184 - (1280 * 1000 + 1000)
    assert pooled.shape == (1, 1280)


def _conv(w: Entries, name: str, x: torch.Tensor, *, stride: int = 1, activated: bool = True) -> torch.Tensor:
    weight = w[f"{name}.0.weight"]
    groups = x.shape[1] // weight.shape[1]
    y = F.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2, groups=groups)
    y = normalised(w, f"{name}.1", y, eps=1e-5)
    return y * torch.sigmoid(y) if activated else y


def _pooled(w: Entries, x: torch.Tensor) -> torch.Tensor:
    x = _conv(w, "features.0", x, stride=2)
    halving, depths = {2, 3, 4, 6}, {1: 2, 2: 3, 3: 3, 4: 4, 5: 4, 6: 5, 7: 2}
    for stage, depth in depths.items():
        for number in range(depth):
            name = f"features.{stage}.{number}.block"
            first = 0 if stage == 1 else 1  # the first stage does not expand
            y = x if stage == 1 else _conv(w, f"{name}.0", x)
            y = _conv(w, f"{name}.{first}", y, stride=2 if stage in halving and number == 0 else 1)
            hidden = F.conv2d(
                y.mean(dim=(2, 3), keepdim=True),
                w[f"{name}.{first + 1}.fc1.weight"],
                w[f"{name}.{first + 1}.fc1.bias"],
            )
            hidden = hidden * torch.sigmoid(hidden)
            scale = F.conv2d(hidden, w[f"{name}.{first + 1}.fc2.weight"], w[f"{name}.{first + 1}.fc2.bias"])
            y = _conv(w, f"{name}.{first + 2}", y * torch.sigmoid(scale), activated=False)
            x = x + y if number else y
    return _conv(w, "features.8", x).mean(dim=(2, 3))


def test_its_average_pool_is_that_of_the_transcription(tmp_path: Path) -> None:
    w = random_entries(EfficientNetB1())
    unused = {"classifier.1.bias": torch.zeros(1000)}
    network = open_folder("efficientnet", write_state_dict(tmp_path / "b1", w, more=unused)).load().eval()
    x = torch.randn(2, 3, 63, 47, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        pooled = network(x)["efficientnet"]
        expected = _pooled(w, x)
    assert expected.std() > 1e-3
    torch.testing.assert_close(pooled, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
