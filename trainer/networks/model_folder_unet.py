"""The U-Net of a latent diffusion model's folder, with what training it needs to know."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.loading import loading
from neuroimagen.data_shards.frozen_models.model_folder import component_folder, read_config, weights_variant
from neuroimagen.data_shards.frozen_models.recognise import recognise
from neuroimagen.trainer.bundled_model.location import BUNDLED, resolve_model_path
from neuroimagen.trainer.networks.eeg_unet import NoiseSchedule

STABLE_DIFFUSION_1_SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
}
STABLE_DIFFUSION_1_SCALING = 0.18215


@dataclass(frozen=True, kw_only=True)
class LoadedUNet:
    """A U-Net, the noise schedule it was trained with, and the scaling of its latents."""

    network: nn.Module
    schedule: NoiseSchedule
    scaling_factor: float
    folder: Path | None
    """None in a dry run without the model folder."""


def require_trainable_unet(folder: Path, *, with_adapter: bool = False) -> None:
    """Raise UserError where the U-Net of a model folder takes more than noisy latents, timesteps and hidden states.

    with_adapter: it is trained with an IP-Adapter, or stays as it is beside one; then it may be SDXL's, which also
    takes a pooled state and time ids.
    """
    config = read_config(component_folder(folder, "unet"))
    channels = read_config(component_folder(folder, "vae"))["latent_channels"]
    more = [
        said
        for takes, said in (
            (config.get("in_channels", channels) != channels, f"{config.get('in_channels')} channels of input"),
            (
                config.get("addition_embed_type") == "text_time" and not with_adapter,
                "a pooled text state and time ids",
            ),
            (config.get("addition_embed_type") not in (None, "text_time"), "an added embedding"),
            (config.get("class_embed_type") == "projection", "an image embedding with its noise level"),
            (config.get("class_embed_type") not in (None, "projection"), "class labels"),
            (config.get("num_class_embeds") is not None, "class labels"),
            (config.get("encoder_hid_dim_type") is not None, "another kind of condition"),
        )
        if takes
    ]
    if more:
        raise UserError(
            f"the U-Net of {folder} ({recognise(folder).what}) takes {' and '.join(more)} beside latents of {channels} "
            "channels and hidden states. The diffusion stage trains the U-Nets of Stable Diffusion 1.x and 2.x, which "
            "take no more, and the IP-Adapters of these and of SDXL (diffusion.train: adapter or both). Set model.path "
            "to such a folder; images are drawn with the others as they are."
        )


def load_unet(
    model: str, *, latent_shape: tuple[int, int, int], text_shape: tuple[int, int], with_adapter: bool = False
) -> LoadedUNet:
    """The U-Net of `model`, a recipe's model.path; on the meta device its weights are not read.

    In a dry run (the meta device) the folder may be absent: then the sizes are Stable Diffusion 1.x's, with latents of
    `latent_shape` (C, h, w) and hidden states as wide as `text_shape` (L, D) says. with_adapter: as for
    require_trainable_unet.

    Raises UserError for a folder that is not a diffusers model, and for a U-Net that takes more than hidden states.
    """
    from diffusers import UNet2DConditionModel

    dry = torch.get_default_device().type == "meta"
    if dry and model != BUNDLED and not Path(model).is_dir():
        unet = UNet2DConditionModel(
            sample_size=latent_shape[1],
            in_channels=latent_shape[0],
            out_channels=latent_shape[0],
            cross_attention_dim=text_shape[1],
        )
        with torch.device("cpu"):
            schedule = NoiseSchedule(STABLE_DIFFUSION_1_SCHEDULER)
        return LoadedUNet(network=unet, schedule=schedule, scaling_factor=STABLE_DIFFUSION_1_SCALING, folder=None)
    folder = resolve_model_path(model)
    require_trainable_unet(folder, with_adapter=with_adapter)
    unet_folder = component_folder(folder, "unet")
    if dry:
        unet = UNet2DConditionModel.from_config(read_config(unet_folder))
    else:
        with loading(unet_folder):
            unet = UNet2DConditionModel.from_pretrained(
                unet_folder, use_safetensors=True, dtype=torch.float32, variant=weights_variant(unet_folder)
            )
    with torch.device("cpu"):
        schedule = NoiseSchedule(read_config(component_folder(folder, "scheduler"), "scheduler_config.json"))
    scaling_factor = read_config(component_folder(folder, "vae")).number("scaling_factor")
    return LoadedUNet(network=unet, schedule=schedule, scaling_factor=scaling_factor, folder=folder)


def latent_scaling(model: str) -> tuple[float, float]:
    """Scaling factor and shift of the latents of `model`, a recipe's model.path: scaled = (latent − shift) · factor.

    In a dry run (the meta device) the folder may be absent: then they are Stable Diffusion 1.x's.
    """
    dry = torch.get_default_device().type == "meta"
    if dry and model != BUNDLED and not Path(model).is_dir():
        return STABLE_DIFFUSION_1_SCALING, 0.0
    config = read_config(component_folder(resolve_model_path(model), "vae"))
    has_shift = config.get("shift_factor") is not None
    return config.number("scaling_factor"), config.number("shift_factor") if has_shift else 0.0
