"""What the latent cache asks of an encoder: its identity, known without loading weights, and how it is called."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # the command line reads the names of the latent kinds without loading PyTorch
    import torch
    from PIL import Image

CHECK_TOLERANCE: Mapping[str, float] = {"float16": 2e-3, "bfloat16": 1.6e-2, "float32": 2e-4}
"""Stored dtype → largest difference between a stored and a recomputed latent that `cache --check` accepts, relative to
the latent's largest number. It covers the rounding to the stored dtype, and what another device or library version
changes in float32. Convolutions in TF32, PyTorch's default on GPUs, stay within the first two, so only latents that
are stored as float32 are computed without TF32; the VAE in bfloat16 would exceed them."""

DTYPES = tuple(CHECK_TOLERANCE)
"""In which latents can be stored."""


@dataclass(frozen=True, kw_only=True)
class EncoderIdentity:
    """What decides the numbers of a latent, apart from the input; read from configurations, without loading weights."""

    model_id: str
    """The model folder's name, for people: it becomes part of the store's folder name, but not of its digest."""
    revision: str
    """SHA-256 of the weights, configurations and vocabularies (`folders_digest`)."""
    preprocessing: Mapping[str, Any]
    """Every setting beside the weights that decides the numbers, as JSON values. A latent made with other settings is
    never used in place of this one."""
    shape: tuple[int, ...]
    """Of one latent."""
    scaling_factor: float | None = None
    """For VAE latents: the factor by which the U-Net expects them multiplied. The stored numbers are not."""

    def __post_init__(self) -> None:
        """Raises TypeError if `preprocessing` cannot be stored as JSON."""
        # As JSON gives it back: it is compared with what a store's latents.json says.
        object.__setattr__(self, "preprocessing", json.loads(json.dumps(self.preprocessing)))


class ImageEncoder(Protocol):
    """A loaded network that encodes images."""

    def pixels(self, images: Sequence["Image.Image"]) -> "torch.Tensor":
        """RGB images, each in its own size → what the network reads, [n, …], on the CPU. Called by several threads."""
        ...

    def encode(self, pixels: "torch.Tensor") -> "torch.Tensor":
        """`pixels` → latents float32 [n, *shape], on the encoder's device."""
        ...


class CaptionEncoder(Protocol):
    """A loaded network that encodes captions."""

    def encode(self, texts: Sequence[str]) -> "torch.Tensor":
        """Texts → latents float32 [n, *shape], on the encoder's device."""
        ...
