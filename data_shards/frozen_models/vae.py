"""Frozen encoders of stimuli and captions, loaded from folders in diffusers' and transformers' layouts.

Every size comes from the folder's own configurations: Stable Diffusion 1.5 (512 px, latents 4×64×64, text 77×768) and
the bundled model differ in their folder only. Weights are read from safetensors, never from pickles.

Shapes: B batch, S side of a picture in px, C latent channels, h×w latent size, L tokens, D width of the text encoder,
P width of the CLIP embedding.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.model_folder import (
    component_folder,
    image_size_px,
    require_captioner_folder,
    text_shape,
)


@contextmanager
def loading(folder: Path) -> Iterator[None]:
    """Load from `folder` without the libraries' progress bars; what they raise on a broken folder becomes UserError."""
    from diffusers.utils import logging as diffusers_logging
    from safetensors import SafetensorError
    from transformers.utils import logging as transformers_logging

    if not folder.is_dir():  # transformers would take it for a name on the hub, and ask there six times
        raise UserError(f"there is no model folder {folder}. Give the path of one that is here; nothing is downloaded.")
    shown = [library for library in (transformers_logging, diffusers_logging) if library.is_progress_bar_enabled()]
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"cannot load the model in {folder}: {reason} Fetch the folder again.") from error
    finally:
        for library in shown:
            library.enable_progress_bar()


def load_transformer(model_class: Any, folder: Path) -> Any:
    """A transformers model in float32 from safetensors; UserError if weights are missing (they would be random)."""
    with loading(folder):
        model, report = model_class.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    if report["missing_keys"]:
        raise UserError(f"{folder} lacks the weights {sorted(report['missing_keys'])[:3]} …. Fetch the folder again.")
    return model.eval().requires_grad_(False)


def load_image_processor(folder: Path) -> Any:
    """A model's own preprocessing of pictures, on Pillow; UserError if the folder holds none."""
    # Not from `transformers`: up to 5.17 that name asks for torchvision, whatever the backend.
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    with loading(folder):
        return AutoImageProcessor.from_pretrained(folder, backend="pil")


SLICE_PIXELS = 4 * 512 * 512
"""Pixels that go through a VAE at once. Stable Diffusion's decoder has feature maps of 1 KiB a pixel (256 channels in
float32), several alive at a time, and a few pictures of 512 px keep a GPU busy: more at once only costs memory."""


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Convolutions in full float32. PyTorch's default on GPUs that have TF32 rounds their inputs to 10 bits."""
    cudnn: Any = torch.backends.cudnn  # a module that makes itself an object, which type checkers do not see
    before = cudnn.conv.fp32_precision
    cudnn.conv.fp32_precision = "ieee"
    try:
        yield
    finally:
        cudnn.conv.fp32_precision = before


class VaeEncoder:
    """AutoencoderKL: pictures to the mean and standard deviation of their latents' posterior, and back.

    Batches of any size go through in slices of SLICE_PIXELS.
    """

    def __init__(self, model: Path, *, device: torch.device) -> None:
        from diffusers import AutoencoderKL

        folder = component_folder(model, "vae")
        with loading(folder):
            self.vae = AutoencoderKL.from_pretrained(folder, use_safetensors=True, dtype=torch.float32)
        # float32 whatever the U-Net runs in: Stable Diffusion's VAE overflows in float16.
        self.vae.to(device=device, memory_format=torch.channels_last).eval().requires_grad_(False)
        self.device = device
        self.image_size_px = image_size_px(model)
        self.scaling_factor = float(self.vae.config.scaling_factor)
        self.shift = float(self.vae.config.shift_factor or 0.0)
        self.slice_pictures = max(1, SLICE_PIXELS // self.image_size_px**2)
        """Pictures that go through at once."""

    @torch.inference_mode()
    def posterior(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pictures float32 [B, 3, S, S] in [-1, 1] → mean and std of their latents [B, 2, C, h, w], not scaled."""
        pixels = pixels.to(self.device, memory_format=torch.channels_last)
        posteriors = [self.vae.encode(part).latent_dist for part in pixels.split(self.slice_pictures)]
        return torch.cat([torch.stack([posterior.mean, posterior.std], dim=1) for posterior in posteriors])

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pictures float32 [B, 3, S, S] in [-1, 1] → mode of their latents [B, C, h, w], scaled for the U-Net."""
        return (self.posterior(pixels)[:, 0] - self.shift) * self.scaling_factor

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Scaled latents [B, C, h, w] → pictures float32 [B, 3, S, S], about [-1, 1]."""
        latents = latents.to(self.device, torch.float32) / self.scaling_factor + self.shift
        latents = latents.to(memory_format=torch.channels_last)
        return torch.cat([self.vae.decode(part).sample for part in latents.split(self.slice_pictures)])


class TextEncoder:
    """CLIP's text tower as the U-Net sees it: padded to full length, last hidden state after the final norm."""

    def __init__(self, model: Path, *, device: torch.device) -> None:
        from transformers import CLIPTextModel, CLIPTokenizer

        folder = component_folder(model, "text_encoder")
        tokenizer_folder = component_folder(model, "tokenizer")
        self.text_model = load_transformer(CLIPTextModel, folder).to(device)
        with loading(tokenizer_folder):
            self.tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
        self.device = device
        self.num_tokens, self.width = text_shape(model)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Texts → hidden states float32 [B, L, D] and pooled (end-of-text) states [B, D]. Longer texts are cut."""
        tokens = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self.num_tokens, return_tensors="pt"
        )
        # As in diffusers: no attention mask, unless the encoder's configuration asks for one.
        masked = bool(getattr(self.text_model.config, "use_attention_mask", False))
        output = self.text_model(
            tokens.input_ids.to(self.device),
            attention_mask=tokens.attention_mask.to(self.device) if masked else None,
        )
        return output.last_hidden_state, output.pooler_output


class ImageEncoder:
    """CLIP's image tower with its projection and its own preprocessing."""

    def __init__(self, folder: Path, *, device: torch.device) -> None:
        from transformers import CLIPModel

        self.clip = load_transformer(CLIPModel, folder).to(device)
        self.processor = load_image_processor(folder)
        self.device = device

    def pixels(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """RGB pictures of any size → what the tower sees, float32 [B, 3, s, s] on the CPU."""
        pixels: torch.Tensor = self.processor(images=list(images), return_tensors="pt").pixel_values
        return pixels

    @torch.inference_mode()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """`pixels` → projected embeddings float32 [B, P], not normalised."""
        pixels = pixels.to(self.device, non_blocking=True)
        return self.clip.visual_projection(self.clip.vision_model(pixel_values=pixels).pooler_output)


class Captioner:
    """BLIP: pictures to captions, by beam search (deterministic)."""

    NUM_BEAMS = 3
    MAX_NEW_TOKENS = 30

    def __init__(self, folder: Path, *, device: torch.device) -> None:
        from transformers import AutoTokenizer, BlipForConditionalGeneration

        require_captioner_folder(folder)
        self.blip = load_transformer(BlipForConditionalGeneration, folder).to(device)
        self.processor = load_image_processor(folder)
        with loading(folder):
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.device = device

    def pixels(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """RGB pictures of any size → what BLIP sees, float32 [B, 3, s, s] on the CPU."""
        pixels: torch.Tensor = self.processor(images=list(images), return_tensors="pt").pixel_values
        return pixels

    @torch.inference_mode()
    def caption(self, pixels: torch.Tensor) -> list[str]:
        """`pixels` → one caption each."""
        tokens = self.blip.generate(
            pixels.to(self.device, non_blocking=True),
            num_beams=self.NUM_BEAMS,
            max_new_tokens=self.MAX_NEW_TOKENS,
            do_sample=False,
        )
        return [caption.strip() for caption in self.tokenizer.batch_decode(tokens, skip_special_tokens=True)]
