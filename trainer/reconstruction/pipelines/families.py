"""The families of latent diffusion models that are served: how the pipeline of each is made and called.

Pipelines get hidden states and image embeddings, never captions and images. Shapes: B images, L tokens, D width of the
hidden states that the U-Net attends to, P width of SDXL's pooled embedding, E width of an image embedding.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import (
    DDPMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    StableUnCLIPImg2ImgPipeline,
)
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from torch import Tensor

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.loading import loading
from neuroimagen.data_shards.frozen_models.model_folder import pooled_size, read_config, text_shape, weights_variant
from neuroimagen.data_shards.frozen_models.text import TextEncoder
from neuroimagen.trainer.reconstruction.pipelines.conditioning import UNCLIP, Conditioning


class _EachImageItsOwn:
    """A pipeline whose IP-Adapters get each image's own embedding; diffusers repeats one embedding for the batch."""

    def prepare_ip_adapter_image_embeds(self, image: None, embeddings: list[Tensor], *others: object) -> list[Tensor]:
        """Embeddings of each IP-Adapter, [B, 1, E] or under guidance [2·B, 1, E], as they are given."""
        return embeddings


class _StableDiffusionPipeline(_EachImageItsOwn, StableDiffusionPipeline):
    pass


class _StableDiffusionXLPipeline(_EachImageItsOwn, StableDiffusionXLPipeline):
    pass


class _StableUnCLIPPipeline(StableUnCLIPImg2ImgPipeline):
    """Without the image encoder, which may take more memory than the U-Net: embeddings come as they are."""

    def _encode_image(
        self,
        *,
        image_embeds: Tensor,
        do_classifier_free_guidance: bool,
        noise_level: Tensor,
        generator: list[torch.Generator],
        **others: object,
    ) -> Tensor:
        """Embeddings [B, E] → what the U-Net takes, [B, 2·E] or under guidance [2·B, 2·E]: the embedding with noise,
        and the level of the noise. Embeddings [B, 0] stand for no image, which is zeros, as in training.
        """
        if image_embeds.shape[1] == 0:
            width = self.unet.config.projection_class_embeddings_input_dim
            labels = torch.zeros(len(image_embeds), width, device=image_embeds.device)
        else:
            labels = self.noise_image_embeddings(image_embeds, noise_level=int(noise_level), generator=generator)
        if do_classifier_free_guidance:
            labels = torch.cat([torch.zeros_like(labels), labels])
        return labels.to(self.unet.dtype)


class StableDiffusion:
    """Stable Diffusion 1.x and 2.x, SD-Turbo: one text encoder."""

    def __init__(self, model: Path, *, unet: Any, vae: Any, device: torch.device) -> None:
        """`unet` and `vae`: loaded. The scheduler is the folder's own, which diffusers corrects where it is outdated.
        encoders are loaded when a caption is first asked for.
        """
        self.model = model
        self.device = device
        with loading(model / "scheduler"):
            scheduler = _own_scheduler(model / "scheduler")
        with loading(model):
            self.pipeline = self.make_pipeline(unet=unet, vae=vae, scheduler=scheduler)
        self.pipeline.set_progress_bar_config(disable=True)

    def make_pipeline(self, **components: Any) -> Any:
        """diffusers' pipeline around the U-Net, the VAE and the scheduler."""
        return _StableDiffusionPipeline(
            **components,
            text_encoder=None,
            tokenizer=None,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )

    def prompt(self, captions: Sequence[str]) -> Conditioning:
        """What captions are to the U-Net, in float32."""
        return Conditioning(text=self._text_encoder.encode(captions)[0])

    @cached_property
    def empty(self) -> Conditioning:
        """The empty caption."""
        return self.prompt([""])

    @property
    def unconditional(self) -> Conditioning:
        """What guidance leads away from, as in diffusers without a negative prompt: here the empty caption, which the
        U-Net saw in training where captions were dropped.
        """
        return self.empty

    def arguments(self, conditioning: Conditioning, count: int, *, guided: bool, noise_level: int) -> dict[str, Any]:
        """The pipeline's arguments for the conditions of `count` images, without those of IP-Adapters."""
        text = self.empty.text if conditioning.text is None else conditioning.text
        arguments = {"prompt_embeds": self._rows(text, count)}
        if guided:
            arguments["negative_prompt_embeds"] = self._rows(self.unconditional.text, count)
        return arguments

    def _rows(self, tensor: Tensor | None, count: int) -> Tensor:
        """One row for each image, on the U-Net's device and in its dtype."""
        assert tensor is not None
        return tensor.to(self.device, self.pipeline.unet.dtype).expand(count, *tensor.shape[1:])

    @cached_property
    def _text_encoder(self) -> TextEncoder:
        return TextEncoder(self.model, device=self.device)


class StableUnCLIP(StableDiffusion):
    """Stable Diffusion 2.1-unCLIP: text, and an image embedding with noise added."""

    def make_pipeline(self, **components: Any) -> Any:
        folder = self.model / "image_normalizer"
        normalizer = StableUnCLIPImageNormalizer.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, variant=weights_variant(folder)
        )
        return _StableUnCLIPPipeline(
            **components,
            text_encoder=None,
            tokenizer=None,
            feature_extractor=None,
            image_encoder=None,
            image_normalizer=normalizer.to(self.device),
            image_noising_scheduler=DDPMScheduler.from_pretrained(self.model / "image_noising_scheduler"),
        )

    def arguments(self, conditioning: Conditioning, count: int, *, guided: bool, noise_level: int) -> dict[str, Any]:
        image = conditioning.image.get(UNCLIP, torch.empty(count, 0))
        return {
            **super().arguments(conditioning, count, guided=guided, noise_level=noise_level),
            "image_embeds": image.to(self.device, torch.float32),
            "noise_level": noise_level,
        }


class StableDiffusionXL(StableDiffusion):
    """SDXL and SDXL-Turbo: the penultimate states of two text encoders, the second's pooled embedding, and sizes."""

    def make_pipeline(self, **components: Any) -> Any:
        index = read_config(self.model, "model_index.json")
        return _StableDiffusionXLPipeline(
            **components,
            text_encoder=None,
            text_encoder_2=None,
            tokenizer=None,
            tokenizer_2=None,
            force_zeros_for_empty_prompt=bool(index.get("force_zeros_for_empty_prompt", True)),
            add_watermarker=False,
        )

    def prompt(self, captions: Sequence[str]) -> Conditioning:
        text, pooled = self._text_encoder.encode(captions)
        return Conditioning(text=text, pooled=pooled)

    @cached_property
    def unconditional(self) -> Conditioning:
        """Zeros where the model was trained so (force_zeros_for_empty_prompt), else the empty caption."""
        if not self.pipeline.config.force_zeros_for_empty_prompt:
            return self.empty
        size = pooled_size(self.model)
        assert size is not None
        return Conditioning(text=torch.zeros(1, *text_shape(self.model)), pooled=torch.zeros(1, size))

    def arguments(self, conditioning: Conditioning, count: int, *, guided: bool, noise_level: int) -> dict[str, Any]:
        arguments = super().arguments(conditioning, count, guided=guided, noise_level=noise_level)
        pooled = self.empty.pooled if conditioning.pooled is None else conditioning.pooled
        arguments["pooled_prompt_embeds"] = self._rows(pooled, count)
        if guided:
            arguments["negative_pooled_prompt_embeds"] = self._rows(self.unconditional.pooled, count)
        return arguments


def _own_scheduler(folder: Path) -> Any:
    """The scheduler of a model folder, of the class that the folder names."""
    name = str(read_config(folder, "scheduler_config.json").get("_class_name"))
    scheduler_class = getattr(diffusers, name, None)
    if scheduler_class is None or not name.endswith("Scheduler"):
        raise UserError(
            f"{folder} has the scheduler {name!r}, which the installed diffusers does not have. Update diffusers."
        )
    return scheduler_class.from_pretrained(folder)


FAMILIES: Mapping[str, type[StableDiffusion]] = {
    "Stable Diffusion": StableDiffusion,
    "Stable Diffusion 2.1-unCLIP": StableUnCLIP,
    "SDXL": StableDiffusionXL,
}
"""Family as data_shards/frozen_models/recognise.py names it → how it is served."""
