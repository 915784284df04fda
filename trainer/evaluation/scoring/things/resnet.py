"""ResNet-50 under the names of torchvision's state dict, which torch.hub's SwAV has: one of the `things` networks.

transformers' ResNet is the same network, with the stride in the 3 × 3 convolution; only the names differ.
"""

import re

from torch import nn

UNUSED = ("fc.",)
"""Prefixes of torchvision's state dict that the features do not need."""
_PARTS = {"convolution": "conv", "normalization": "bn"}
_INNER = re.compile(
    r"encoder\.stages\.(?P<stage>\d)\.layers\.(?P<block>\d+)\."
    r"(?:layer\.(?P<number>\d)|(?P<shortcut>shortcut))\.(?P<part>convolution|normalization)\.(?P<entry>\w+)"
)


def build_resnet50() -> nn.Module:
    """A transformers ResNet-50 without its class scores."""
    from transformers import ResNetConfig, ResNetModel

    return ResNetModel(ResNetConfig())


def torchvision_name(name: str) -> str:
    """What torchvision calls an entry of the state dict of transformers' ResNet."""
    match = _INNER.fullmatch(name)
    if match is None:  # the first convolution
        _, _, part, entry = name.split(".")
        return f"{_PARTS[part]}1.{entry}"
    block = f"layer{int(match['stage']) + 1}.{match['block']}"
    if match["shortcut"]:
        return f"{block}.downsample.{'01'[match['part'] == 'normalization']}.{match['entry']}"
    return f"{block}.{_PARTS[match['part']]}{int(match['number']) + 1}.{match['entry']}"
