"""The kinds of latent: what each encodes, with which network of which folder, into which shape.

The table KINDS declares each kind once. Beside these, every image tower of the registry (towers/registry.py) is a kind
of the tower's name. Loading this module imports neither PyTorch nor a tower.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.encoder import (
    CHECK_TOLERANCE,
    CaptionEncoder,
    EncoderIdentity,
    ImageEncoder,
)
from neuroimagen.data_shards.frozen_models.model_folder import (
    ModelFolders,
    component_folder,
    folders_digest,
    image_size_px,
    read_config,
    require_diffusion_folder,
    text_shape,
    vae_reduction,
)
from neuroimagen.data_shards.frozen_models.towers.base import ImageTower
from neuroimagen.data_shards.frozen_models.towers.registry import IMAGE_TOWERS

if TYPE_CHECKING:
    from neuroimagen.data_shards.frozen_models.loading import LoadedModels

Source = Literal["image", "class caption", "detailed caption", "BLIP caption"]
"""What is encoded: the stimulus's image, the caption of its class, its own caption, or BLIP's caption of the image."""


class LatentKind(ABC):
    """Declares one kind of latent. `folders` are those of the job; nothing here loads weights but `encoder`."""

    source: Source

    @property
    def check_tolerance(self) -> Mapping[str, float]:
        """Stored dtype → relative difference that `cache --check` accepts."""
        return CHECK_TOLERANCE

    def missing(self, folders: ModelFolders) -> str | None:
        """Why `folders` cannot make this kind, as a clause of a message; None if they can."""
        return None

    @abstractmethod
    def identity(self, folders: ModelFolders) -> EncoderIdentity:
        """What decides the numbers. Raises UserError if a folder is incomplete."""


class ImageKind(LatentKind):
    """A kind that encodes images."""

    source: Source = "image"

    @abstractmethod
    def encoder(self, models: "LoadedModels") -> ImageEncoder:
        """The network that encodes this kind, loaded."""


class VaeKind(ImageKind):
    """Mean and standard deviation of the VAE's posterior, [2, C, h, w], not scaled."""

    def identity(self, folders: ModelFolders) -> EncoderIdentity:
        model = require_diffusion_folder(folders.model)
        folder = component_folder(model, "vae")
        config = read_config(folder)
        size_px = image_size_px(model)
        latent_px = size_px // vae_reduction(model)
        return EncoderIdentity(
            model_id=model.resolve().name,
            revision=folders_digest(folder),
            # The words below enter the stores' digests: changing one would orphan every store on disk.
            preprocessing={
                "picture": f"centre crop to a square, Lanczos to {size_px} px, RGB in [-1, 1]",
                "size_px": size_px,
                "statistics": "posterior mean and standard deviation, float32, not scaled",
            },
            shape=(2, int(config["latent_channels"]), latent_px, latent_px),
            scaling_factor=float(config["scaling_factor"]),
        )

    def encoder(self, models: "LoadedModels") -> ImageEncoder:
        from neuroimagen.data_shards.frozen_models.vae import PosteriorEncoder, VaeEncoder

        return PosteriorEncoder(models.get(VaeEncoder, models.folders.model))


@dataclass(frozen=True, kw_only=True)
class CaptionKind(LatentKind):
    """States of the text encoder for a caption."""

    source: Source
    state: Literal["hidden", "pooled"]
    """hidden: last hidden states after the final norm, [L, D]; pooled: the end-of-text state, [D]."""
    captions_from: str | None = None
    """The kind in whose store the BLIP captions are, so that one captioning serves both; None: captions are made."""

    def missing(self, folders: ModelFolders) -> str | None:
        if self.source == "BLIP caption" and folders.captioner is None:
            return "no BLIP captioner is given (--blip)"
        return None

    def identity(self, folders: ModelFolders) -> EncoderIdentity:
        model = require_diffusion_folder(folders.model)
        num_tokens, width = text_shape(model)
        preprocessing: dict[str, object] = {
            "tokens": f"padded or cut to {num_tokens}",
            "state": "last hidden state after the final norm" if self.state == "hidden" else "end-of-text state",
        }
        if self.source == "BLIP caption" and folders.captioner is not None:
            preprocessing["captioner"] = _captioner_settings(folders.captioner)
        return EncoderIdentity(
            model_id=model.resolve().name,
            revision=folders_digest(component_folder(model, "text_encoder"), component_folder(model, "tokenizer")),
            preprocessing=preprocessing,
            shape=(num_tokens, width) if self.state == "hidden" else (width,),
        )

    def encoder(self, models: "LoadedModels") -> CaptionEncoder:
        """The text encoder, loaded."""
        from neuroimagen.data_shards.frozen_models.text import StateEncoder, TextEncoder

        return StateEncoder(models.get(TextEncoder, models.folders.model), state=self.state)


@dataclass(frozen=True)
class TowerKind(ImageKind):
    """The embedding that an image tower makes."""

    name: str
    tower: ImageTower

    @property
    def check_tolerance(self) -> Mapping[str, float]:
        return self.tower.check_tolerance

    def missing(self, folders: ModelFolders) -> str | None:
        reason = self.tower.missing(folders.tower(self.name))
        return None if reason is None else f"{reason}; --towers {self.name}=FOLDER gives one"

    def identity(self, folders: ModelFolders) -> EncoderIdentity:
        if reason := self.missing(folders):
            raise UserError(f"{reason}.")
        return self.tower.identity(folders.tower(self.name))

    def encoder(self, models: "LoadedModels") -> ImageEncoder:
        return models.get(self.tower.load, models.folders.tower(self.name))


KINDS: Mapping[str, LatentKind] = {
    "vae": VaeKind(),
    "text-class": CaptionKind(source="class caption", state="hidden"),
    "text-detailed": CaptionKind(source="detailed caption", state="hidden"),
    "text-blip": CaptionKind(source="BLIP caption", state="hidden"),
    "pooled-class": CaptionKind(source="class caption", state="pooled"),
    "pooled-detailed": CaptionKind(source="detailed caption", state="pooled"),
    "pooled-blip": CaptionKind(source="BLIP caption", state="pooled", captions_from="text-blip"),
}
"""Every kind that is not an image tower's, by the name that it has on the command line and on disk."""


def kind_names() -> tuple[str, ...]:
    """The names of all kinds, in the order in which they are cached."""
    for name in IMAGE_TOWERS.names():
        # A kind's name begins the name of a folder and is looked for by a glob pattern.
        if name in KINDS or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise UserError(
                f"an image tower is called {name!r}, but its name must consist of letters, digits, hyphens and "
                f"underscores and differ from {', '.join(KINDS)}. Uninstall its package, or have its author rename it."
            )
    return (*KINDS, *IMAGE_TOWERS.names())


@cache
def latent_kind(name: str) -> LatentKind:
    """The kind of this name. Raises UserError that names the known ones."""
    if name not in kind_names():
        raise UserError(f"latent kind {name!r} is not one of {', '.join(kind_names())}.")
    return KINDS[name] if name in KINDS else TowerKind(name, IMAGE_TOWERS[name]())


def _captioner_settings(folder: Path) -> dict[str, object]:
    from neuroimagen.data_shards.frozen_models.captioner import Captioner

    return {
        "revision": folders_digest(folder),
        "num_beams": Captioner.NUM_BEAMS,
        "max_new_tokens": Captioner.MAX_NEW_TOKENS,
    }
