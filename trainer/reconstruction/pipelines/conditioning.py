"""What a U-Net is conditioned on."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

UNCLIP = "unclip"
"""Name of the image embedding that a Stable unCLIP model itself takes, among those of IP-Adapters."""


@dataclass(frozen=True, kw_only=True)
class Conditioning:
    """What the U-Net is conditioned on, for B images. What is None or absent is the empty caption, or no image."""

    text: Tensor | None = None
    """Hidden states [B, L, D] as the U-Net takes them; of SDXL those of both text encoders, side by side."""
    pooled: Tensor | None = None
    """SDXL's pooled embedding of the caption [B, P]."""
    image: Mapping[str, Tensor] = field(default_factory=dict)
    """Name of an IP-Adapter, or UNCLIP → image embeddings [B, E] of its kind."""

    def tensors(self) -> dict[str, Tensor]:
        """What is given, each by what a message calls it."""
        named = {"the text condition": self.text, "the pooled text condition": self.pooled}
        named |= {f"the image condition {name!r}": embedding for name, embedding in self.image.items()}
        return {name: tensor for name, tensor in named.items() if tensor is not None}
