"""The image condition of the bundled model: its IP-Adapter, trained together with the U-Net.

IP-Adapter (Ye et al. 2023) adds to every cross-attention of the U-Net a second one, on four tokens made from the image
embedding. Its published training freezes the U-Net; ours is small enough, and weak enough, that it has to learn along.
"""

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPModel

from neuroimagen.data_shards.frozen_models.adapter_weights import (
    adapter_state,
    attach_adapters,
    initial_adapter,
    without_adapters,
    write_adapter,
)
from neuroimagen.data_shards.frozen_models.ip_adapter import OWN_FOLDER
from neuroimagen.trainer.bundled_model.fitting import fit
from neuroimagen.trainer.bundled_model.training_stimuli import TrainingStimuli
from neuroimagen.trainer.bundled_model.unet import AveragedUNet, CaptionedLatents

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
    data = CaptionedLatents(stimuli, work, seed=seed)
    generator = data.generator
    unet = UNet2DConditionModel.from_pretrained(work / "unet")
    everything = torch.arange(len(stimuli.labels))
    embeddings = torch.cat([image_embeddings(data.clip, stimuli.scaled(chunk)) for chunk in everything.split(1_000)])
    spread = spread_of(embeddings)
    attach_adapters(unet, [initial_adapter(unet, embeddings.shape[1])])
    parameters = trained_parameters(unet)
    averaged = AveragedUNet(unet, lambda average: save_unet_and_adapter(average, work / "image_condition-so-far"))

    def loss_of(index: Tensor) -> Tensor:
        n = len(index)
        latents, tokens = data.draw(index, text_dropout=TEXT_DROPOUT)
        strength = MAX_NOISE * torch.rand(n, 1, generator=generator) ** 2
        image = embeddings[index] + strength * torch.randn(n, len(spread), generator=generator) @ spread
        without_image = torch.rand(n, 1, generator=generator) < IMAGE_DROPOUT
        image = image.masked_fill(without_image, 0.0)
        return data.denoising.loss(unet, latents, data.text(tokens), generator, image=image)

    fit(
        "image condition",
        parameters,
        loss_of,
        count=len(stimuli.labels),
        batch_size=64,
        steps=steps,
        learning_rate=8e-4,
        seed=seed,
        after_step=averaged.update,
    )
    save_unet_and_adapter(averaged.average, folder)
