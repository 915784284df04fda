"""The kinds of latent: what each encodes, with which network of which folder, into which shape.

The table KINDS declares each kind once. Beside these, every image tower of the registry (towers/registry.py) is a kind
of the tower's name, and every tower that a user configures is one of the name that the user gives it. Loading this
module imports neither PyTorch nor a tower.
"""

import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.reading import content_of
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
    text_layout,
    vae_reduction,
)
from neuroimagen.data_shards.frozen_models.recognise import Use, recognise
from neuroimagen.data_shards.frozen_models.towers.base import ImageTower
from neuroimagen.data_shards.frozen_models.towers.config import TowerConfig
from neuroimagen.data_shards.frozen_models.towers.registry import IMAGE_TOWERS

if TYPE_CHECKING:
    from PIL import Image

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

    def shape(self, folders: ModelFolders) -> tuple[int, ...]:
        """Of one latent, from configurations alone. Raises UserError if a folder is incomplete."""
        return self.identity(folders).shape


class ImageKind(LatentKind):
    """A kind that encodes images."""

    source: Source = "image"

    @abstractmethod
    def encoder(self, models: "LoadedModels") -> ImageEncoder:
        """The network that encodes this kind, loaded."""

    def view(self, folders: ModelFolders) -> "Callable[[Image.Image, str], list[Image.Image]] | None":
        """What an image goes through before it is encoded: image and stimulus's key → images, of whose latents the
        mean is the latent; None: nothing.
        """
        return None


class VaeKind(ImageKind):
    """Mean and standard deviation of the VAE's posterior, [2, C, h, w], not scaled."""

    def missing(self, folders: ModelFolders) -> str | None:
        return _why_not(folders.model, "vae")

    def shape(self, folders: ModelFolders) -> tuple[int, ...]:
        model = require_diffusion_folder(folders.model)
        with _using(model):
            latent_px = image_size_px(model) // vae_reduction(model)
            channels = read_config(component_folder(model, "vae")).whole_number("latent_channels")
        return (2, channels, latent_px, latent_px)

    def identity(self, folders: ModelFolders) -> EncoderIdentity:
        model = _require(folders.model, "vae")
        folder = component_folder(model, "vae")
        with _using(model):
            scaling_factor, size_px = read_config(folder).number("scaling_factor"), image_size_px(model)
        return EncoderIdentity(
            model_id=model.resolve().name,
            revision=folders_digest(folder),
            # The words below enter the stores' digests: changing one would orphan every store on disk.
            preprocessing={
                "picture": f"centre crop to a square, Lanczos to {size_px} px, RGB in [-1, 1]",
                "size_px": size_px,
                "statistics": "posterior mean and standard deviation, float32, not scaled",
            },
            shape=self.shape(folders),
            scaling_factor=scaling_factor,
        )

    def encoder(self, models: "LoadedModels") -> ImageEncoder:
        from neuroimagen.data_shards.frozen_models.vae import PosteriorEncoder, VaeEncoder

        return PosteriorEncoder(models.get(VaeEncoder, require_diffusion_folder(models.folders.model)))


_STATES: Mapping[tuple[str, int], str] = {
    ("hidden", 1): "last hidden state after the final norm",
    ("pooled", 1): "end-of-text state",
    ("hidden", 2): "penultimate hidden states of both text encoders, joined",
    ("pooled", 2): "the second text encoder's end-of-text state, projected",
}
"""State and number of text encoders → what the identity says of it: changing a word would orphan every store on disk.
"""


@dataclass(frozen=True, kw_only=True)
class CaptionKind(LatentKind):
    """States of the text encoder for a caption; of both text encoders where the model has two (SDXL)."""

    source: Source
    state: Literal["hidden", "pooled"]
    """hidden: last hidden states after the final norm, [L, D]; pooled: the end-of-text state, [D]. Of SDXL, hidden:
    the penultimate hidden states of both text encoders, joined; pooled: the second's end-of-text state, projected.
    """
    captions_from: str | None = None
    """The kind in whose store the BLIP captions are, so that one captioning serves both; None: captions are made."""

    def missing(self, folders: ModelFolders) -> str | None:
        if reason := _why_not(folders.model, "text"):
            return reason
        if self.source == "BLIP caption" and folders.captioner is None:
            return "no BLIP captioner is given (--blip)"
        return None

    def shape(self, folders: ModelFolders) -> tuple[int, ...]:
        model = require_diffusion_folder(folders.model)
        with _using(model):
            layout = text_layout(model)
        return layout.shape if self.state == "hidden" else (layout.pooled_size,)

    def identity(self, folders: ModelFolders) -> EncoderIdentity:
        model = _require(folders.model, "text")
        with _using(model):
            layout = text_layout(model)
        preprocessing: dict[str, object] = {
            "tokens": f"padded or cut to {layout.shape[0]}",
            "state": _STATES[self.state, len(layout.encoders)],
        }
        if self.source == "BLIP caption" and folders.captioner is not None:
            preprocessing["captioner"] = _captioner_settings(folders.captioner)
        return EncoderIdentity(
            model_id=model.resolve().name,
            revision=folders_digest(*(component_folder(model, name) for pair in layout.encoders for name in pair)),
            preprocessing=preprocessing,
            shape=self.shape(folders),
        )

    def encoder(self, models: "LoadedModels") -> CaptionEncoder:
        """The text encoder, loaded."""
        from neuroimagen.data_shards.frozen_models.text import StateEncoder, TextEncoder

        model = require_diffusion_folder(models.folders.model)
        return StateEncoder(models.get(TextEncoder, model), state=self.state)


@dataclass(frozen=True)
class TowerKind(ImageKind):
    """The embedding that an image tower makes, in one configuration."""

    name: str
    tower: ImageTower

    @property
    def check_tolerance(self) -> Mapping[str, float]:
        return self.tower.check_tolerance

    def missing(self, folders: ModelFolders) -> str | None:
        folder = folders.tower(self.name)
        if folder is None:
            return f"no folder is given for it; --towers {self.name}=FOLDER gives one"
        with _using(folder):
            reason = self.tower.missing(folder)
        if reason is None or (self.name in folders.towers and folders.towers[self.name].path is not None):
            return reason
        return f"{reason}; --towers {self.name}=FOLDER gives one"

    def shape(self, folders: ModelFolders) -> tuple[int, ...]:
        folder = self._folder(folders)
        with _using(folder):
            return self.tower.shape(folder)

    def identity(self, folders: ModelFolders) -> EncoderIdentity:
        folder, view = self._folder(folders), self.tower.config.view
        with _using(folder):
            identity = self.tower.identity(folder)
            if view is None:
                return identity
            view_px = self.tower.view_px(folder)
        from neuroimagen.data_shards.frozen_models.towers.views import view_settings

        settings = view_settings(view, view_px)
        return dataclasses.replace(identity, preprocessing={**identity.preprocessing, "view": settings})

    def view(self, folders: ModelFolders) -> "Callable[[Image.Image, str], list[Image.Image]] | None":
        view = self.tower.config.view
        if view is None:
            return None
        from neuroimagen.data_shards.frozen_models.towers.views import viewed

        folder = self._folder(folders)
        with _using(folder):
            size_px = self.tower.view_px(folder)
        return partial(viewed, view=view, size_px=size_px)

    def encoder(self, models: "LoadedModels") -> ImageEncoder:
        folder = self._folder(models.folders)
        with _using(folder):
            return self.tower.encoder(models, folder)

    def _folder(self, folders: ModelFolders) -> Path:
        if reason := self.missing(folders):
            raise UserError(f"{reason}.")
        folder = folders.tower(self.name)
        assert folder is not None
        return folder


def _using(folder: Path) -> AbstractContextManager[None]:
    """Use a model folder's configurations, in which anything may stand: what that makes ours raise is a UserError."""
    return content_of(f"use the model in {folder}", remedy="Fetch the folder again.")


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


def latent_kind(name: str, towers: Mapping[str, TowerConfig] | None = None) -> LatentKind:
    """The kind of this name. `towers`: those that the user configured, by their kind.

    Raises UserError that names the known kinds, or says what is wrong with a configuration.
    """
    config = (towers or {}).get(name)
    if config is not None:
        return _tower_kind(name, _tower_name(name, config), config)
    if name not in kind_names():
        known = ", ".join((*kind_names(), *(towers or {})))
        raise UserError(
            f"latent kind {name!r} is not one of {known}. An image tower of another name is given with --towers "
            f"{name}=FOLDER, in a recipe with model.towers."
        )
    return KINDS[name] if name in KINDS else _tower_kind(name, name, TowerConfig())


@cache  # a kind is one object, so that its network is loaded once
def _tower_kind(name: str, tower: str, config: TowerConfig) -> TowerKind:
    return TowerKind(name, IMAGE_TOWERS[tower]().configured(config, name=tower))


def _tower_name(name: str, config: TowerConfig) -> str:
    """The registry's name of the tower that makes the kind `name` in the user's configuration."""
    if name in KINDS or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise UserError(
            f"an image tower cannot have the name {name!r}: it must consist of letters, digits, hyphens and "
            f"underscores and differ from {', '.join(KINDS)}."
        )
    if name in IMAGE_TOWERS and config.tower not in (None, name):
        raise UserError(
            f"{name} is the name of an image tower, and the tower {config.tower} is asked for under it. Choose another "
            "name."
        )
    if config.tower is not None or name in IMAGE_TOWERS:
        tower = config.tower or name
        if tower not in IMAGE_TOWERS:
            raise IMAGE_TOWERS.unknown(tower)
        return tower
    if config.folder is None:
        raise UserError(f"the image tower {name} has neither a folder nor a tower; give one of them.")
    content = recognise(config.folder)
    if content.tower is None:
        raise UserError(
            f"{config.folder} is {content.what}, which does not say the image tower that {name} is to be. Give it "
            f"(tower=…): one of {', '.join(IMAGE_TOWERS)}."
        )
    return content.tower


def _why_not(model: Path | None, use: Use) -> str | None:
    """Why the model folder does not serve a use, as a clause; None if it does."""
    return "no model folder is given (--model)" if model is None else recognise(model).why_not(use)


def _require(model: Path | None, use: Use) -> Path:
    """Return `model` if it serves a use, else raise a UserError that says why it does not."""
    model = require_diffusion_folder(model)
    if reason := recognise(model).why_not(use):
        raise UserError(f"{reason}.")
    return model


def _captioner_settings(folder: Path) -> dict[str, object]:
    from neuroimagen.data_shards.frozen_models.captioner import Captioner

    return {
        "revision": folders_digest(folder),
        "num_beams": Captioner.NUM_BEAMS,
        "max_new_tokens": Captioner.MAX_NEW_TOKENS,
    }
