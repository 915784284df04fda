"""A VAE's latent as one flat vector: the mean of its posterior (Brain-HIVE)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.format.images import square_image
from neuroimagen.data_shards.frozen_models.encoder import EncoderIdentity
from neuroimagen.data_shards.frozen_models.loading import LoadedModels
from neuroimagen.data_shards.frozen_models.model_folder import folders_digest, read_config, reduction_of_vae
from neuroimagen.data_shards.frozen_models.recognise import read_json, recognise, weights_problem
from neuroimagen.data_shards.frozen_models.towers.base import ImageTower
from neuroimagen.data_shards.frozen_models.vae import SLICE_PIXELS, load_vae


class VaeVectorTower(ImageTower):
    """The posterior's mean, not scaled, [C·h·w], of the VAE in a folder or in its vae/ sub-folder.

    The image is cropped to its centre square and resized to `size_px`, by default what the folder's U-Net or else the
    VAE's configuration says. SDXL's VAE at 128 px gives Brain-HIVE's 1024 numbers.
    """

    accepts = ("size_px",)
    by_default = False  # the kind `vae` holds the same numbers

    def missing(self, folder: Path) -> str | None:
        vae = _vae_folder(folder)
        if vae is None:
            return (
                f"{folder} holds no VAE of class AutoencoderKL, and neither does its vae/ folder (it is "
                f"{recognise(folder).what})"
            )
        size_px, reduction = self._size_px(folder), reduction_of_vae(vae)
        if size_px is None:
            return f"no configuration in {folder} says the size of images; give it (size_px=256)"
        if size_px % reduction:
            return f"size_px {size_px} is not a multiple of the {reduction} px that a latent element stands for"
        return weights_problem(vae)

    def shape(self, folder: Path) -> tuple[int, ...]:
        vae, size_px = self._require(folder)
        return (read_config(vae).whole_number("latent_channels") * (size_px // reduction_of_vae(vae)) ** 2,)

    def identity(self, folder: Path) -> EncoderIdentity:
        vae, size_px = self._require(folder)
        return EncoderIdentity(
            model_id=folder.resolve().name,
            revision=folders_digest(vae),
            # The words below enter the stores' digests: changing one would orphan every store on disk.
            preprocessing={
                "picture": f"centre crop to a square, Lanczos to {size_px} px, RGB in [-1, 1]",
                "statistics": "posterior mean, float32, not scaled, flat [C, h, w]",
            },
            shape=self.shape(folder),
        )

    def view_px(self, folder: Path) -> int:
        return self._require(folder)[1]

    def load(self, folder: Path, *, device: torch.device) -> "VaeVectorEncoder":
        vae, size_px = self._require(folder)
        return VaeVectorEncoder(load_vae(vae, device=device), size_px, device)

    def encoder(self, models: LoadedModels, folder: Path) -> "VaeVectorEncoder":
        vae, size_px = self._require(folder)
        return VaeVectorEncoder(models.get(load_vae, vae), size_px, models.device)

    def _size_px(self, folder: Path) -> int | None:
        if self.config.size_px is not None:
            return self.config.size_px
        vae = _vae_folder(folder)
        assert vae is not None
        latent_px = read_json(folder / "unet" / "config.json").get("sample_size")
        if isinstance(latent_px, int):
            return latent_px * reduction_of_vae(vae)
        own = read_config(vae).get("sample_size")
        return own if isinstance(own, int) else None

    def _require(self, folder: Path) -> tuple[Path, int]:
        vae = _vae_folder(folder)
        size_px = None if vae is None else self._size_px(folder)
        if vae is None or size_px is None:
            raise UserError(f"{self.missing(folder)}.")
        return vae, size_px


class VaeVectorEncoder:
    """An AutoencoderKL, loaded. S: side of its input in px."""

    def __init__(self, vae: "torch.nn.Module", size_px: int, device: torch.device) -> None:
        self.vae = vae
        self.size_px = size_px
        self.device = device

    def pixels(self, images: Sequence[Image.Image]) -> Tensor:
        """RGB images of any size → uint8 [B, 3, S, S] on the CPU."""
        return torch.from_numpy(np.stack([square_image(image, self.size_px) for image in images]))

    @torch.inference_mode()
    def encode(self, pixels: Tensor) -> Tensor:
        """`pixels` → means of their latents' posterior, float32 [B, C·h·w], not scaled."""
        pixels = pixels.to(self.device, non_blocking=True).float() / 127.5 - 1
        pixels = pixels.to(memory_format=torch.channels_last)
        slices = pixels.split(max(1, SLICE_PIXELS // self.size_px**2))
        encode = self.vae.encode
        means = [encode(part).latent_dist.mean for part in slices]  # type: ignore[operator]
        return torch.cat(means).flatten(1)


def _vae_folder(folder: Path) -> Path | None:
    """The folder of an AutoencoderKL: `folder` itself or its vae/ sub-folder; None if neither."""
    for candidate in (folder, folder / "vae"):
        config = read_json(candidate / "config.json")
        if config.get("_class_name") == "AutoencoderKL" and "latent_channels" in config:
            return candidate
    return None
