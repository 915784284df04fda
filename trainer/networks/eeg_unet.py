"""A latent diffusion model's U-Net, conditioned on EEG, as one network to fine-tune.

Shapes: B segments, C latent channels, h×w latent size, L tokens, D width of the text encoder, F features, P embedding.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

import torch
from torch import Tensor, nn

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.reading import content_of
from neuroimagen.data_shards.frozen_models.adapter_weights import num_adapters, without_adapters
from neuroimagen.trainer.networks.pretrained import PretrainedModule
from neuroimagen.trainer.networks.semantic import SemanticModel

PredictionType = Literal["epsilon", "v_prediction", "sample"]
Trained = Literal["cross-attention", "lora", "all"]
CROSS_ATTENTION = "attn2"
"""What diffusers calls the attention to the text in a U-Net's blocks."""
UNET_FOLDER = "unet"


class EEGDiffusion(PretrainedModule):
    """EEG → hidden states (a semantic model's) → the U-Net's prediction."""

    model_type: ClassVar[str] = "eeg-diffusion"
    unconditional: Tensor

    def __init__(self, *, semantic: SemanticModel, unet: nn.Module, embedding_size: int | None = None) -> None:
        super().__init__()
        self.config = {}
        self.semantic = semantic
        self.unet = unet
        self.align = None if embedding_size is None else nn.Linear(semantic.encoder.feature_size, embedding_size)
        # Hidden states of the empty caption: what the U-Net saw where its captions were dropped.
        self.register_buffer("unconditional", torch.zeros(semantic.text_shape))

    def forward(
        self,
        eeg: Tensor,
        noisy: Tensor,
        timesteps: Tensor,
        dropped: Tensor | None = None,
        subject: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """What the U-Net predicts [B, C, h, w] for `noisy` latents at `timesteps` [B], and the features projected for
        alignment [B, P] if there is a projection. Where `dropped` [B] is true the condition is the empty caption's.
        subject: int64 [B], for subject layers.
        """
        features = self.semantic.encoder(eeg, subject)
        hidden = self.semantic.from_features(features)
        if dropped is not None:
            hidden = torch.where(dropped[:, None, None], self.unconditional, hidden)
        predicted = self.unet(noisy, timesteps, encoder_hidden_states=hidden, return_dict=False)[0]
        return predicted, None if self.align is None else self.align(features)

    def save_pretrained(self, folder: Path | str) -> None:
        """The semantic model, as its own stage exports it, and beside it `unet/` in diffusers' layout."""
        folder = Path(folder)
        self.semantic.save_pretrained(folder)
        merged(self.unet).save_pretrained(folder / UNET_FOLDER)

    @classmethod
    def from_pretrained(cls, folder: Path | str, *, device: torch.device | str = "cpu") -> Self:
        from diffusers import UNet2DConditionModel

        semantic = SemanticModel.from_pretrained(folder)
        unet = UNet2DConditionModel.from_pretrained(Path(folder) / UNET_FOLDER, use_safetensors=True)
        return cls(semantic=semantic, unet=unet).to(device).eval()


def choose_trained(unet: nn.Module, trained: Trained, *, lora_rank: int) -> None:
    """Let gradients reach what is fine-tuned: the cross-attention, low-rank additions to it (LoRA, Hu et al. 2022), or
    everything.
    """
    unet.requires_grad_(trained == "all")
    if trained == "cross-attention":
        for name, parameter in unet.named_parameters():
            parameter.requires_grad_(f".{CROSS_ATTENTION}." in name)
    elif trained == "lora":
        try:
            from peft import LoraConfig
        except ImportError:
            raise UserError(
                'diffusion.trained: lora needs peft. Install it (pip install "neuroimagen[lora]"), or choose '
                "cross-attention."
            ) from None
        layers = rf".*\.{CROSS_ATTENTION}\.(to_q|to_k|to_v|to_out\.0)"
        unet.add_adapter(LoraConfig(r=lora_rank, lora_alpha=lora_rank, target_modules=layers))  # type: ignore[operator]


def merged(unet: Any) -> Any:
    """The U-Net with low-rank additions worked into its weights, and without IP-Adapters; itself if it has neither."""
    if not getattr(unet, "peft_config", None):
        return without_adapters(unet)
    from diffusers import UNet2DConditionModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    copied = copy.deepcopy(unet)
    for module in copied.modules():
        if isinstance(module, BaseTunerLayer):
            module.merge()
    weights = {
        name.replace(".base_layer.", "."): tensor for name, tensor in copied.state_dict().items() if "lora_" not in name
    }
    if not num_adapters(unet):
        plain = UNet2DConditionModel.from_config(unet.config)
        plain.load_state_dict(weights, strict=True)
        return plain
    return without_adapters(unet, weights)


class NoiseSchedule:
    """The forward process of a scheduler: x_t = √ᾱ_t·x_0 + √(1−ᾱ_t)·ε, and what the U-Net is to predict of it."""

    def __init__(self, scheduler_config: Mapping[str, Any]) -> None:
        from diffusers import DDPMScheduler

        kind = scheduler_config.get("prediction_type", "epsilon")
        if kind not in get_args(PredictionType):
            raise UserError(
                f"the scheduler's prediction_type is {kind!r}; only {', '.join(get_args(PredictionType))} are trained."
            )
        self.prediction_type: PredictionType = kind
        with content_of("use the model's scheduler_config.json", remedy="Fetch the model folder again."):
            self.alphas_cumprod: Tensor = DDPMScheduler.from_config(dict(scheduler_config)).alphas_cumprod
        self._on_device: dict[torch.device, Tensor] = {}

    @property
    def num_timesteps(self) -> int:
        return len(self.alphas_cumprod)

    def _alpha(self, timesteps: Tensor) -> Tensor:
        device = timesteps.device
        if device not in self._on_device:  # copied once: a copy in every step would wait for the GPU
            self._on_device[device] = self.alphas_cumprod.to(device)
        return self._on_device[device][timesteps][:, None, None, None]

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        alpha = self._alpha(timesteps)
        return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """ε, v = √ᾱ·ε − √(1−ᾱ)·x_0 (Salimans and Ho 2022), or x_0."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return latents
        alpha = self._alpha(timesteps)
        return alpha.sqrt() * noise - (1 - alpha).sqrt() * latents

    def min_snr_weight(self, timesteps: Tensor, gamma: float) -> Tensor:
        """min(SNR, γ) / SNR for ε, min(SNR, γ) / (SNR + 1) for v, min(SNR, γ) for x_0: [B] (Hang et al. 2023)."""
        alpha = self._alpha(timesteps).flatten()
        snr = alpha / (1 - alpha)
        if self.prediction_type == "sample":
            return snr.clamp(max=gamma)
        return snr.clamp(max=gamma) / (snr if self.prediction_type == "epsilon" else snr + 1)
