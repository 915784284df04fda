"""Networks of Stable Diffusion 1.5's sizes with random weights, and tiny ones of the same classes for a CPU.

The sizes are those of the config.json files in the model's repository; speed does not depend on the weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class DiffusionSizes:
    """The configurations of a latent diffusion model's networks."""

    unet: Mapping[str, Any]
    """Of diffusers' UNet2DConditionModel."""
    vae: Mapping[str, Any]
    """Of diffusers' AutoencoderKL."""
    text: Mapping[str, Any]
    """Of transformers' CLIPTextConfig."""

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        side = int(self.unet["sample_size"])
        return (int(self.unet["in_channels"]), side, side)

    @property
    def text_shape(self) -> tuple[int, int]:
        return (int(self.text["max_position_embeddings"]), int(self.text["hidden_size"]))

    @property
    def image_size_px(self) -> int:
        return int(self.vae["sample_size"])

    @property
    def scaling_factor(self) -> float:
        return float(self.vae["scaling_factor"])

    def make_unet(self, *, device: torch.device) -> nn.Module:
        """A trainable U-Net with random float32 weights, made on the device, which takes a tenth of the time."""
        from diffusers import UNet2DConditionModel

        with device:
            unet: nn.Module = UNet2DConditionModel(**self.unet).train()
        return unet

    def make_vae(self, *, device: torch.device, dtype: torch.dtype) -> Any:
        """A frozen VAE with random weights."""
        from diffusers import AutoencoderKL

        return AutoencoderKL(**self.vae).to(device, dtype).eval().requires_grad_(False)

    def make_text_encoder(self, *, device: torch.device, dtype: torch.dtype) -> Any:
        """A frozen text encoder with random weights."""
        from transformers import CLIPTextConfig, CLIPTextModel

        return CLIPTextModel(CLIPTextConfig(**self.text)).to(device, dtype).eval().requires_grad_(False)


STABLE_DIFFUSION_1_5 = DiffusionSizes(
    unet={
        "sample_size": 64,
        "in_channels": 4,
        "out_channels": 4,
        "center_input_sample": False,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (320, 640, 1280, 1280),
        "layers_per_block": 2,
        "downsample_padding": 1,
        "mid_block_scale_factor": 1,
        "act_fn": "silu",
        "norm_num_groups": 32,
        "norm_eps": 1e-5,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    },
    vae={
        "sample_size": 512,
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "latent_channels": 4,
        "norm_num_groups": 32,
        "act_fn": "silu",
        "scaling_factor": 0.18215,
    },
    text={
        "vocab_size": 49408,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "projection_dim": 768,
    },
)

TINY = DiffusionSizes(
    unet={
        **STABLE_DIFFUSION_1_5.unet,
        "sample_size": 8,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "cross_attention_dim": 24,
        "attention_head_dim": 2,
    },
    vae={
        **STABLE_DIFFUSION_1_5.vae,
        "sample_size": 32,
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "block_out_channels": (8, 16, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
    },
    text={
        **STABLE_DIFFUSION_1_5.text,
        "vocab_size": 100,
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 12,
        "projection_dim": 24,
        "bos_token_id": 98,
        "eos_token_id": 99,
        "pad_token_id": 99,
    },
)
