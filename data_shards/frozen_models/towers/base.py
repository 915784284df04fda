"""What an image tower declares (docs/how-to/extending.md has a complete example)."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.encoder import CHECK_TOLERANCE, EncoderIdentity, ImageEncoder
from neuroimagen.data_shards.frozen_models.towers.config import TowerConfig

if TYPE_CHECKING:
    import torch

    from neuroimagen.data_shards.frozen_models.loading import LoadedModels


class ImageTower(ABC):
    """Declares a frozen network that turns an image into an embedding. Creating one loads nothing.

    `folder` is the folder that the user gave for the tower (`cache --towers NAME=FOLDER`), otherwise the model folder:
    the tower looks in it for what it can load. A tower that needs no folder ignores it.
    """

    accepts: tuple[str, ...] = ()
    """Which of `layer`, `pool` and `size_px` a user may set; every tower has views."""
    by_default: bool = True
    """Whether `cache` without --kinds makes the embedding of a model folder that serves it, and says so where one does
    not. Others are made where the user names them."""
    check_tolerance: Mapping[str, float] = CHECK_TOLERANCE
    """Stored dtype → relative difference between a stored and a recomputed embedding that `cache --check` accepts."""
    config: TowerConfig = TowerConfig()
    """What the user set. What is in `accepts` belongs into `identity` where it decides the numbers."""

    def configured(self, config: TowerConfig, *, name: str) -> Self:
        """A copy of this tower with the user's settings. Raises UserError for settings that it does not have.

        `name`: of the tower, for messages.
        """
        refused = [key for key in ("layer", "pool", "size_px") if key in config.given() and key not in self.accepts]
        if refused:
            has = f"it has {', '.join(self.accepts)} and view" if self.accepts else "it has view alone"
            raise UserError(f"the image tower {name} has no {' and no '.join(refused)}; {has}.")
        tower = copy.copy(self)
        tower.config = config
        return tower

    def missing(self, folder: Path) -> str | None:
        """What `folder` lacks to serve this tower, as a clause of a message; None if it serves. Loads nothing."""
        return None

    @abstractmethod
    def identity(self, folder: Path) -> EncoderIdentity:
        """Everything that decides the embedding, and its shape; from configurations and file digests alone."""

    def shape(self, folder: Path) -> tuple[int, ...]:
        """Of the embedding. A tower with files says it without reading the weights for a digest."""
        return self.identity(folder).shape

    def view_px(self, folder: Path) -> int:
        """Side of the square at which views are made: what the network resizes images to, before it crops them."""
        return self.config.size_px or 224

    @abstractmethod
    def load(self, folder: Path, *, device: "torch.device") -> ImageEncoder:
        """Load the network onto `device`, for inference."""

    def encoder(self, models: "LoadedModels", folder: Path) -> ImageEncoder:
        """The loaded encoder among a job's networks. Towers of one network in several configurations share it."""
        return models.get(self.load, folder)
