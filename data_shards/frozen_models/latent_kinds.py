"""The kinds of latent: what each encodes, by which part of a model folder, into which shape."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.model_folder import (
    clip_folder,
    component_folder,
    folders_digest,
    image_size_px,
    read_config,
    require_diffusion_folder,
    text_shape,
    vae_reduction,
)

DTYPES = ("float16", "bfloat16", "float32")
"""Of stored latents."""


@dataclass(frozen=True, kw_only=True)
class LatentKind:
    """What is encoded, and what is kept of it."""

    source: Literal["picture", "class caption", "detailed caption", "blip caption"]
    output: Literal["posterior", "hidden", "pooled", "embedding"]
    """posterior: mean and std of VAE latents [2, C, h, w]; hidden: last hidden states [L, D] of the text encoder;
    pooled: its end-of-text state [D]; embedding: projected CLIP image embedding [P]."""


KINDS: dict[str, LatentKind] = {
    "vae": LatentKind(source="picture", output="posterior"),
    "text-class": LatentKind(source="class caption", output="hidden"),
    "text-detailed": LatentKind(source="detailed caption", output="hidden"),
    "text-blip": LatentKind(source="blip caption", output="hidden"),
    "pooled-class": LatentKind(source="class caption", output="pooled"),
    "pooled-detailed": LatentKind(source="detailed caption", output="pooled"),
    "pooled-blip": LatentKind(source="blip caption", output="pooled"),
    "image": LatentKind(source="picture", output="embedding"),
}


@dataclass(frozen=True, kw_only=True)
class EncoderIdentity:
    """What decides the numbers of a latent, apart from the input; read from configurations, without loading weights."""

    model_id: str
    revision: str
    preprocessing: dict[str, Any]
    shape: tuple[int, ...]
    scaling_factor: float | None = None


def require_kind(kind: str) -> LatentKind:
    """The kind of this name; UserError names the known ones."""
    if kind not in KINDS:
        raise UserError(f"latent kind {kind!r} is not one of {', '.join(KINDS)}.")
    return KINDS[kind]


def encoder_identity(kind: str, model: Path) -> EncoderIdentity:
    """Identity of the encoder of `kind` in the diffusers folder `model` (for `image`: also a bare CLIP folder)."""
    output = require_kind(kind).output
    if output == "embedding":
        folder = clip_folder(model)
        if folder is None:
            raise UserError(
                f"{model} holds no CLIP model with an image tower (nor does its clip/). Give one with --clip."
            )
        return EncoderIdentity(
            model_id=model.resolve().name,
            revision=folders_digest(folder),
            preprocessing={"picture": "own size, RGB", "processor": "the model's preprocessor_config.json"},
            shape=(int(read_config(folder)["projection_dim"]),),
        )
    require_diffusion_folder(model)
    if output == "posterior":
        folder = component_folder(model, "vae")
        config = read_config(folder)
        size_px = image_size_px(model)
        latent_px = size_px // vae_reduction(model)
        return EncoderIdentity(
            model_id=model.resolve().name,
            revision=folders_digest(folder),
            preprocessing={
                "picture": f"centre crop to a square, Lanczos to {size_px} px, RGB in [-1, 1]",
                "size_px": size_px,
                "statistics": "posterior mean and standard deviation, float32, not scaled",
            },
            shape=(2, int(config["latent_channels"]), latent_px, latent_px),
            scaling_factor=float(config["scaling_factor"]),
        )
    num_tokens, width = text_shape(model)
    return EncoderIdentity(
        model_id=model.resolve().name,
        revision=folders_digest(component_folder(model, "text_encoder"), component_folder(model, "tokenizer")),
        preprocessing={
            "tokens": f"padded or cut to {num_tokens}",
            "state": "last hidden state after the final norm" if output == "hidden" else "end-of-text state",
        },
        shape=(num_tokens, width) if output == "hidden" else (width,),
    )
