"""The recipe's `evaluate.things` section: folders of the feature networks of THINGS papers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

NETWORKS = ("alexnet", "inception", "clip", "efficientnet", "swav")
ThingsOffer = Literal[
    "things", "things alexnet", "things inception", "things clip", "things efficientnet", "things swav"
]
"""What a metric can need of the preset: that it is on, or one of its networks."""


@dataclass(frozen=True, kw_only=True)
class ThingsConfig:
    """Folders of the networks, each of which may be left out (null). Nothing is downloaded.

    docs/how-to/things-figures.md has the commands that save torchvision's weights as such folders.
    """

    alexnet: str | None = None
    """torchvision's AlexNet, its state dict in one safetensors file."""
    inception: str | None = None
    """torchvision's Inception v3, likewise."""
    clip: str | None = None
    """A transformers CLIP model, or its image tower with projection; the papers have ViT-L/14."""
    efficientnet: str | None = None
    """EfficientNet-B1: torchvision's state dict, which the papers have, or a transformers EfficientNet."""
    swav: str | None = None
    """SwAV's ResNet-50: the state dict of torch.hub's, or a transformers ResNet."""

    @property
    def folders(self) -> dict[str, Path]:
        """Network → its folder, of those that are given."""
        values = {name: getattr(self, name) for name in NETWORKS}
        return {name: Path(value).expanduser() for name, value in values.items() if value is not None}
