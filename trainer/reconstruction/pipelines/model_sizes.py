"""What a model folder takes and makes, read and checked from its configurations, without weights.

Everything that cannot be served is refused here, by name, so that recipes are refused before any work.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.ip_adapter import (
    IPAdapterConfig,
    IPAdapterFile,
    adapters_of,
    trained_adapters,
)
from neuroimagen.data_shards.frozen_models.model_folder import (
    Configuration,
    component_folder,
    image_size_px,
    pooled_size,
    read_config,
    require_diffusion_folder,
    text_shape,
    vae_reduction,
)
from neuroimagen.data_shards.frozen_models.recognise import recognise
from neuroimagen.trainer.reconstruction.pipelines.conditioning import UNCLIP


@dataclass(frozen=True, kw_only=True)
class ModelSizes:
    """Sizes of a model folder of a family that is served."""

    family: str
    """As recognise.py names it."""
    image_size_px: int
    latent_shape: tuple[int, int, int]
    """(C, h, w)."""
    text_shape: tuple[int, int]
    """(L, D): tokens, and width of the hidden states that the U-Net attends to."""
    pooled_size: int | None
    """P of SDXL's pooled embedding; None for other families."""
    image_sizes: Mapping[str, int]
    """Name of an IP-Adapter, or UNCLIP for an unCLIP model's own → width of its image embeddings."""
    targets: Mapping[str, str]
    """Name of an IP-Adapter → kind of cached image embedding that it takes."""
    adapters: Mapping[str, IPAdapterFile]
    """Name of an IP-Adapter → its weights."""
    own_adapters: frozenset[str]
    """Names of IP-Adapters that were trained with the U-Net: that in the model folder, or beside a fine-tuned one."""


def read_sizes(
    model: Path, *, unet: Path | None = None, adapters: Mapping[str, IPAdapterConfig] | None = None
) -> ModelSizes:
    """Read and check the configurations of a model folder, and the names and shapes of its adapters' weights.

    unet: the folder of a fine-tuned U-Net in place of its own. adapters: the recipe's model.ip_adapters; an adapter in
    the folder itself (ip_adapter/) is there without being named, and those that were trained with a fine-tuned U-Net
    take the place of others of their name. Raises UserError when the family is not served, when
    components do not belong together, and when an adapter does not fit.
    """
    content = recognise(require_diffusion_folder(model))
    if reason := content.why_not("diffusion"):
        raise UserError(f"{reason}. Choose another model (docs/reference/reconstruct.md lists the families).")
    assert content.family is not None
    unet_folder = unet if unet is not None else component_folder(model, "unet")
    unet_config = read_config(unet_folder)
    channels = read_config(component_folder(model, "vae")).whole_number("latent_channels")
    if unet_config["in_channels"] != channels:
        raise UserError(
            f"{unet_folder} takes {unet_config['in_channels']} channels, the latents of {model} have {channels}: it "
            "belongs to another model, or needs more than latents and conditions."
        )
    side = image_size_px(model) // vae_reduction(model)
    text, pooled = text_shape(model), pooled_size(model)
    width = unet_config.whole_number("cross_attention_dim")
    if width != text[1]:
        raise UserError(
            f"{model}: the U-Net attends to width {width}, the text encoder gives {text[1]}. unet/ and "
            "text_encoder/ are from different models."
        )
    if pooled is not None:
        expected = pooled + 6 * unet_config.whole_number("addition_time_embed_dim")
        if unet_config.get("projection_class_embeddings_input_dim") != expected:
            raise UserError(
                f"{model}: the U-Net takes {unet_config.get('projection_class_embeddings_input_dim')} numbers of the "
                f"caption and the size, the second text encoder and six sizes give {expected} (a refiner?). Choose a "
                "base model."
            )
    files, own = _adapters(model, adapters or {}, {} if unet is None else trained_adapters(unet.parent))
    image_sizes = {name: file.embedding_size for name, (file, _) in files.items()}
    for name, (file, _) in files.items():
        file.require_width(name, width, model)
    if content.family == "Stable Diffusion 2.1-unCLIP":
        if files:
            raise UserError(
                f"{model} is {content.what}, whose pipeline takes no IP-Adapter ({', '.join(files)}): its own image "
                f"embedding is the condition {UNCLIP!r}. Leave model.ip_adapters out."
            )
        image_sizes = {UNCLIP: _unclip_size(model, unet_config)}
    return ModelSizes(
        family=content.family,
        image_size_px=image_size_px(model),
        latent_shape=(channels, side, side),
        text_shape=text,
        pooled_size=pooled,
        image_sizes=image_sizes,
        targets={name: target for name, (_, target) in files.items()},
        adapters={name: file for name, (file, _) in files.items()},
        own_adapters=own,
    )


def _unclip_size(model: Path, unet_config: Configuration) -> int:
    """Width of an unCLIP model's image embedding: the U-Net takes it beside the level of its noise, equally wide."""
    size = unet_config.whole_number("projection_class_embeddings_input_dim") // 2
    normalised = read_config(model / "image_normalizer").whole_number("embedding_dim")
    if normalised != size:
        raise UserError(
            f"{model}: the U-Net takes image embeddings of width {size}, image_normalizer/ has {normalised}. They are "
            "from different models."
        )
    return size


def _adapters(
    model: Path, configured: Mapping[str, IPAdapterConfig], beside: Mapping[str, IPAdapterConfig]
) -> tuple[dict[str, tuple[IPAdapterFile, str]], frozenset[str]]:
    """Name → weights and target of every adapter, and the names of those that were trained with the U-Net: that in the
    model folder, and those `beside` a fine-tuned U-Net.
    """
    if UNCLIP in configured:
        raise UserError(f"model.ip_adapters.{UNCLIP}: an unCLIP model's own condition has that name. Choose another.")
    all_of_them = adapters_of(model, configured) | dict(beside)
    found = {name: (config.read(), config.target) for name, config in all_of_them.items()}
    return found, frozenset(name for name in found if name not in configured or name in beside)
