"""BLIP, which writes captions of images."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from neuroimagen.data_shards.frozen_models.loading import load_image_processor, load_transformer, loading
from neuroimagen.data_shards.frozen_models.model_folder import require_captioner_folder


class Captioner:
    """BLIP: images to captions, by beam search, which is deterministic. s: side of its input in px."""

    NUM_BEAMS = 3
    MAX_NEW_TOKENS = 30

    def __init__(self, folder: Path, *, device: torch.device) -> None:
        from transformers import AutoTokenizer, BlipForConditionalGeneration

        require_captioner_folder(folder)
        self.blip = load_transformer(BlipForConditionalGeneration, folder).to(device)
        self.processor = load_image_processor(folder)
        with loading(folder):
            self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self.device = device

    def pixels(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """RGB images of any size → what BLIP reads, float32 [B, 3, s, s] on the CPU."""
        pixels: torch.Tensor = self.processor(images=list(images), return_tensors="pt").pixel_values
        return pixels

    @torch.inference_mode()
    def caption(self, pixels: torch.Tensor) -> list[str]:
        """`pixels` → one caption per image."""
        tokens = self.blip.generate(
            pixels.to(self.device, non_blocking=True),
            num_beams=self.NUM_BEAMS,
            max_new_tokens=self.MAX_NEW_TOKENS,
            do_sample=False,
        )
        return [caption.strip() for caption in self.tokenizer.batch_decode(tokens, skip_special_tokens=True)]
