"""The image condition of the bundled model: its IP-Adapter, trained together with the U-Net.

IP-Adapter (Ye et al. 2023) adds to every cross-attention of the U-Net a second one, on four tokens made from the image
embedding. Its published training freezes the U-Net; ours is small enough, and weak enough, that it has to learn along.
"""

import copy
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTokenizer

from neuroimagen.trainer.bundled_model.fitting import fit
from neuroimagen.trainer.bundled_model.training_stimuli import TrainingStimuli, tokenize
from neuroimagen.trainer.bundled_model.unet import Denoising, build_scheduler
from neuroimagen.trainer.bundled_model.vae import encode_latents

ADAPTER = "ip_adapter"
"""Name of the adapter: of its folder, and of the file of weights in it."""
NUM_TOKENS = 4
"""What diffusers takes the base layout of an IP-Adapter to have."""
CLASS_CAPTION_SHARE = 0.5
TEXT_DROPOUT = 0.35
IMAGE_DROPOUT = 0.3
MAX_NOISE = 0.6
"""Of the noise on the image embedding, relative to the spread of the embeddings."""

State = dict[str, dict[str, Tensor]]
"""An IP-Adapter's weights as diffusers loads them: `image_proj` and `ip_adapter`, by name within each."""


def initial_adapter(unet: UNet2DConditionModel, image_size: int) -> State:
    """Weights to start from: random tokens, read with the keys and values that the U-Net has for its text.

    The biases are zero, and training leaves them so. A zero embedding, which stands for "no image" in diffusers'
    classifier-free guidance, then gives zero tokens, and those add nothing: the same as no adapter at all. The length
    of an embedding has no effect either, because the tokens are normalised.
    """
    width = unet.config.cross_attention_dim
    tokens = nn.Linear(image_size, NUM_TOKENS * width)
    attentions: dict[str, Tensor] = {}
    for number, name in enumerate(_cross_attentions(unet)):
        attention = unet.get_submodule(name)
        for letter in "kv":
            weight = attention.get_submodule(f"to_{letter}").weight.detach().clone()
            attentions[f"{2 * number + 1}.to_{letter}_ip.weight"] = weight
    return {
        "image_proj": {
            "proj.weight": tokens.weight.detach().clone(),
            "proj.bias": torch.zeros(NUM_TOKENS * width),
            "norm.weight": torch.ones(width),
            "norm.bias": torch.zeros(width),
        },
        "ip_adapter": attentions,
    }


def attach_adapter(unet: UNet2DConditionModel, state: State) -> list[nn.Parameter]:
    """Give the U-Net an adapter, by the code that `load_ip_adapter` runs. Returns the parameters to train, the U-Net's
    own among them."""
    unet._load_ip_adapter_weights([state])
    unet.requires_grad_(True)
    projection = unet.encoder_hid_proj.image_projection_layers[0]
    for bias in (projection.image_embeds.bias, projection.norm.bias):
        bias.requires_grad_(False)
    return [parameter for parameter in unet.parameters() if parameter.requires_grad]


def adapter_state(unet: UNet2DConditionModel) -> State:
    """The weights of the adapter that a U-Net has, in the layout that `attach_adapter` takes."""
    projection = unet.encoder_hid_proj.image_projection_layers[0].state_dict()
    attentions: dict[str, Tensor] = {}
    for number, name in enumerate(_cross_attentions(unet)):
        processor = unet.get_submodule(f"{name}.processor")
        for letter in "kv":
            weight = processor.get_submodule(f"to_{letter}_ip")[0].weight
            attentions[f"{2 * number + 1}.to_{letter}_ip.weight"] = weight.detach().clone()
    return {
        "image_proj": {name.replace("image_embeds", "proj"): value.clone() for name, value in projection.items()},
        "ip_adapter": attentions,
    }


def save_unet_and_adapter(unet: UNet2DConditionModel, folder: Path) -> None:
    """Write the U-Net without its adapter to folder/unet, and the adapter to folder/ip_adapter."""
    plain = UNet2DConditionModel.from_config({**unet.config, "encoder_hid_dim_type": None})
    own = plain.state_dict().keys()
    plain.load_state_dict({name: value for name, value in unet.state_dict().items() if name in own})
    plain.save_pretrained(folder / "unet")
    state = adapter_state(unet)
    (folder / ADAPTER).mkdir(parents=True, exist_ok=True)
    save_file(
        {f"{part}.{name}": value.contiguous() for part, weights in state.items() for name, value in weights.items()},
        folder / ADAPTER / f"{ADAPTER}.safetensors",
        metadata={"format": "pt"},
    )


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
    parameters = attach_adapter(unet, initial_adapter(unet, embeddings.shape[1]))
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


def _cross_attentions(unet: UNet2DConditionModel) -> list[str]:
    """Names of the cross-attentions, in the order in which an IP-Adapter's weights are numbered: 1, 3, 5 …"""
    suffix = ".attn2.processor"
    return [name.removesuffix(".processor") for name in unet.attn_processors if name.endswith(suffix)]
