"""The image condition of the bundled model: its IP-Adapter, trained together with the U-Net.

IP-Adapter (Ye et al. 2023) adds to every cross-attention of the U-Net a second one, on four tokens made from the image
embedding. Its published training freezes the U-Net; ours is small enough, and weak enough, that it has to learn along.
"""

import copy
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTokenizer

from neuroimagen.data_shards.frozen_models.adapter_weights import (
    adapter_state,
    attach_adapters,
    initial_adapter,
    without_adapters,
    write_adapter,
)
from neuroimagen.data_shards.frozen_models.ip_adapter import OWN_FOLDER
from neuroimagen.trainer.bundled_model.fitting import fit
from neuroimagen.trainer.bundled_model.training_stimuli import TrainingStimuli, tokenize
from neuroimagen.trainer.bundled_model.unet import Denoising, build_scheduler
from neuroimagen.trainer.bundled_model.vae import encode_latents

CLASS_CAPTION_SHARE = 0.5
TEXT_DROPOUT = 0.35
IMAGE_DROPOUT = 0.3
MAX_NOISE = 0.6
"""Of the noise on the image embedding, relative to the spread of the embeddings."""


def trained_parameters(unet: UNet2DConditionModel) -> list[nn.Parameter]:
    """The parameters of a U-Net with an adapter that are trained: all but the biases of the image tokens, which stay 0.

    "No image", a zero embedding, then adds nothing, and the length of an embedding has no effect, because the tokens
    are normalised.
    """
    projection = unet.encoder_hid_proj.image_projection_layers[0]
    for bias in (projection.image_embeds.bias, projection.norm.bias):
        bias.requires_grad_(False)
    return [parameter for parameter in unet.parameters() if parameter.requires_grad]


def save_unet_and_adapter(unet: UNet2DConditionModel, folder: Path) -> None:
    """Write the U-Net without its adapter to folder/unet, and the adapter to folder/ip_adapter."""
    without_adapters(unet).save_pretrained(folder / "unet")
    write_adapter(folder / OWN_FOLDER / f"{OWN_FOLDER}.safetensors", adapter_state(unet))


@torch.inference_mode()
def image_embeddings(clip: CLIPModel, images: Tensor) -> Tensor:
    """The projected image embeddings of images in [-1, 1], as CLIPVisionModelWithProjection gives them: not unit."""
    pooled = [clip.vision_model(pixel_values=chunk).pooler_output for chunk in images.split(250)]
    return clip.visual_projection(torch.cat(pooled))


def spread_of(embeddings: Tensor) -> Tensor:
    """A matrix [size, size] by which normal noise [n, size] is multiplied to have the embeddings' covariance."""
    variances, directions = torch.linalg.eigh(torch.cov(embeddings.T))
    return variances.clamp_min(0).sqrt()[:, None] * directions.T


def train_image_condition(stimuli: TrainingStimuli, work: Path, folder: Path, *, steps: int, seed: int) -> None:
    """Train the U-Net of `work` and a new adapter on text and image together; either is dropped, row by row.

    The image embedding is given noise of the embeddings' own covariance and of random strength, mostly little: what is
    predicted from EEG is never quite an embedding of an image.
    """
    vae = AutoencoderKL.from_pretrained(work / "vae")
    tokenizer = CLIPTokenizer.from_pretrained(work / "clip")
    clip = CLIPModel.from_pretrained(work / "clip").eval().requires_grad_(False)
    unet = UNet2DConditionModel.from_pretrained(work / "unet")
    everything = torch.arange(len(stimuli.labels))
    mean, std = encode_latents(vae, stimuli, everything)
    embeddings = torch.cat([image_embeddings(clip, stimuli.scaled(chunk)) for chunk in everything.split(1_000)])
    spread = spread_of(embeddings)
    attach_adapters(unet, [initial_adapter(unet, embeddings.shape[1])])
    parameters = trained_parameters(unet)
    average = copy.deepcopy(unet).requires_grad_(False)
    denoising = Denoising(build_scheduler())
    class_tokens = tokenize(tokenizer, stimuli.class_captions)
    detailed_tokens = tokenize(tokenizer, stimuli.detailed_captions)
    empty = tokenize(tokenizer, [""])
    generator = torch.Generator().manual_seed(seed)

    def loss_of(index: Tensor) -> Tensor:
        n = len(index)
        latents = mean[index] + std[index] * torch.randn(mean[index].shape, generator=generator)
        use_class = torch.rand(n, 1, generator=generator) < CLASS_CAPTION_SHARE
        tokens = torch.where(use_class, class_tokens[index], detailed_tokens[index])
        without_text = torch.rand(n, 1, generator=generator) < TEXT_DROPOUT
        tokens = torch.where(without_text, empty, tokens)
        strength = MAX_NOISE * torch.rand(n, 1, generator=generator) ** 2
        image = embeddings[index] + strength * torch.randn(n, len(spread), generator=generator) @ spread
        without_image = torch.rand(n, 1, generator=generator) < IMAGE_DROPOUT
        image = image.masked_fill(without_image, 0.0)
        with torch.no_grad():
            text = clip.text_model(input_ids=tokens).last_hidden_state
        return denoising.loss(unet, latents * vae.config.scaling_factor, text, generator, image=image)

    @torch.no_grad()
    def update_average(step: int) -> None:
        decay = min(0.999, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(average.parameters()), list(unet.parameters()), 1 - decay)
        if (step + 1) % 500 == 0:
            save_unet_and_adapter(average, work / "image_condition-so-far")

    fit(
        "image condition",
        parameters,
        loss_of,
        count=len(stimuli.labels),
        batch_size=64,
        steps=steps,
        learning_rate=8e-4,
        seed=seed,
        after_step=update_average,
    )
    save_unet_and_adapter(average, folder)
