"""What an image tower declares (docs/extending.md has a complete example)."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from neuroimagen.data_shards.frozen_models.encoder import CHECK_TOLERANCE, EncoderIdentity, ImageEncoder

if TYPE_CHECKING:
    import torch


class ImageTower(ABC):
    """Declares a frozen network that turns an image into an embedding. Creating one loads nothing.

    `folder` is the folder that the user gave for the tower (`cache --towers NAME=FOLDER`), otherwise the model folder:
    the tower looks in it for what it can load. A tower that needs no folder ignores it.
    """

    check_tolerance: Mapping[str, float] = CHECK_TOLERANCE
    """Stored dtype → relative difference between a stored and a recomputed embedding that `cache --check` accepts."""

    def missing(self, folder: Path) -> str | None:
        """What `folder` lacks to serve this tower, as a clause of a message; None if it serves. Loads nothing."""
        return None

    @abstractmethod
    def identity(self, folder: Path) -> EncoderIdentity:
        """Everything that decides the embedding, and its shape; from configurations and file digests alone."""

    @abstractmethod
    def load(self, folder: Path, *, device: "torch.device") -> ImageEncoder:
        """Load the network onto `device`, for inference."""
