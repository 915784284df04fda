"""CLIP's image tower with its projection (Radford et al. 2021), from a folder of transformers' CLIPModel."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from neuroimagen.data_shards.frozen_models.encoder import EncoderIdentity
from neuroimagen.data_shards.frozen_models.loading import load_image_processor, load_transformer
from neuroimagen.data_shards.frozen_models.model_folder import folders_digest, read_config
from neuroimagen.data_shards.frozen_models.towers.base import ImageTower


class ClipImageTower(ImageTower):
    """Projected image embedding [P] of the CLIP model in a folder or in its clip/ sub-folder, not normalised."""

    def missing(self, folder: Path) -> str | None:
        if clip_folder(folder) is None:
            return f"{folder} holds no CLIP model with an image tower, and neither does its clip/ folder"
        return None

    def identity(self, folder: Path) -> EncoderIdentity:
        clip = _require_clip_folder(folder)
        return EncoderIdentity(
            model_id=folder.resolve().name,
            revision=folders_digest(clip),
            # The words below enter the stores' digests: changing one would orphan every store on disk.
            preprocessing={"picture": "own size, RGB", "processor": "the model's preprocessor_config.json"},
            shape=(int(read_config(clip)["projection_dim"]),),
        )

    def load(self, folder: Path, *, device: torch.device) -> "ClipImageEncoder":
        return ClipImageEncoder(_require_clip_folder(folder), device=device)


class ClipImageEncoder:
    """CLIP's image tower, loaded, with its own preprocessing. P: width of the projection; s: side of its input, px."""

    def __init__(self, folder: Path, *, device: torch.device) -> None:
        from transformers import CLIPModel

        self.clip = load_transformer(CLIPModel, folder).to(device)
        self.processor = load_image_processor(folder)
        self.device = device

    def pixels(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """RGB images of any size → what the tower reads, float32 [B, 3, s, s] on the CPU."""
        pixels: torch.Tensor = self.processor(images=list(images), return_tensors="pt").pixel_values
        return pixels

    @torch.inference_mode()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """`pixels` → projected embeddings float32 [B, P], not normalised."""
        pixels = pixels.to(self.device, non_blocking=True)
        embeddings: torch.Tensor = self.clip.visual_projection(
            self.clip.vision_model(pixel_values=pixels).pooler_output
        )
        return embeddings


def clip_folder(folder: Path) -> Path | None:
    """The folder of the CLIP model with an image tower: `folder` itself or its clip/ sub-folder; None if neither."""
    for candidate in (folder, folder / "clip"):
        if (candidate / "config.json").is_file() and "vision_config" in read_config(candidate):
            return candidate
    return None


def _require_clip_folder(folder: Path) -> Path:
    found = clip_folder(folder)
    assert found is not None, f"{folder}: `missing` is asked first"
    return found
