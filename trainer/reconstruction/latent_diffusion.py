"""A frozen latent diffusion model from any folder in diffusers' layout, and the sampling loop that uses it.

Shapes: B images, S side of an image in px, C latent channels, h×w latent size, L tokens, D width of the text encoder.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.loading import loading
from neuroimagen.data_shards.frozen_models.model_folder import (
    component_folder,
    folders_digest,
    image_size_px,
    read_config,
    text_shape,
    vae_reduction,
    weights_variant,
)
from neuroimagen.data_shards.frozen_models.text import TextEncoder
from neuroimagen.data_shards.frozen_models.vae import VaeEncoder
from neuroimagen.trainer.reconstruction.batch_by_memory import MAX_IMAGES, fitting_batch_size, free_bytes, peak_bytes
from neuroimagen.trainer.reconstruction.schedulers import SCHEDULERS, num_denoising_steps
from neuroimagen.trainer.reconstruction.shared_stem import SharedStem

COMPONENTS: tuple[Literal["vae", "unet", "text_encoder", "tokenizer", "scheduler"], ...] = (
    "vae",
    "unet",
    "text_encoder",
    "tokenizer",
    "scheduler",
)


class LatentDiffusion:
    """VAE, U-Net, text encoder and noise schedule of a model folder, for inference.

    The VAE and the text encoder run in float32; the U-Net in `dtype`. Noise and the steps of the scheduler are float32.
    Convolutions run channels-last, attention through PyTorch's fused kernels (diffusers' own default).
    """

    def __init__(
        self,
        model: Path,
        *,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        unet: Path | nn.Module | None = None,
        compile_backend: str | None = None,
    ) -> None:
        """`model`: the folder. Raises UserError when it is incomplete or damaged, when its components do not belong
        together, and when its U-Net needs more than latents and text.

        dtype: of the U-Net. unet: a fine-tuned one in place of the model's own: the folder it is in, or the network,
        which is used as it is. compile_backend: torch.compile's for the U-Net and the VAE's decoder, which are compiled
        anew for each size of batch; None: neither is compiled.
        """
        from diffusers import UNet2DConditionModel

        self.device = device
        self.dtype = dtype
        self.image_size_px = image_size_px(model)
        self.text_shape = text_shape(model)
        unet_folder = unet if isinstance(unet, Path) else component_folder(model, "unet")
        unet_config = read_config(unet_folder)
        size = self.image_size_px // vae_reduction(model)
        latent_channels = int(read_config(component_folder(model, "vae"))["latent_channels"])
        self.latent_shape: tuple[int, int, int] = (latent_channels, size, size)
        if unet_config["in_channels"] != latent_channels or unet_config.get("addition_embed_type") is not None:
            raise UserError(
                f"{model} needs more input than latents and text (an inpainting, depth or SDXL model?). Choose a "
                "text-to-image model of Stable Diffusion 1.x's or 2.x's kind."
            )
        if unet_config["cross_attention_dim"] != self.text_shape[1]:
            raise UserError(
                f"{model}: the U-Net attends to width {unet_config['cross_attention_dim']}, the text encoder gives "
                f"{self.text_shape[1]}. unet/ and text_encoder/ are from different models."
            )
        self._scheduler_config = read_config(component_folder(model, "scheduler"), "scheduler_config.json")
        self.vae = VaeEncoder(model, device=device)
        self.text_encoder = TextEncoder(model, device=device)
        self._stem: SharedStem | None = None
        if isinstance(unet, nn.Module):
            self.unet: Any = unet
            return
        with loading(unet_folder):
            network = UNet2DConditionModel.from_pretrained(
                unet_folder, use_safetensors=True, dtype=dtype, variant=weights_variant(unet_folder)
            )
        self.unet = network.to(device=device, memory_format=torch.channels_last).eval().requires_grad_(False)
        self._stem = SharedStem(self.unet)
        if compile_backend is not None:
            self.unet.compile(backend=compile_backend, dynamic=False)
            self.vae.vae.decoder.compile(backend=compile_backend, dynamic=False)

    @cached_property
    def unconditional(self) -> Tensor:
        """Hidden states [1, L, D] of the empty caption: what the U-Net saw in training when its caption was dropped."""
        return self.text_encoder.encode([""])[0]

    def prompt(self, captions: Sequence[str]) -> Tensor:
        """Hidden states float32 [B, L, D] of captions."""
        return self.text_encoder.encode(captions)[0]

    def encode(self, images: Tensor) -> Tensor:
        """Images [B, 3, S, S] in [-1, 1] → scaled latents [B, C, h, w]: the mode of the posterior."""
        return self.vae.encode(images)

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents [B, C, h, w] → images float32 [B, 3, S, S] in [-1, 1]."""
        return self.vae.decode(latents).clamp(-1.0, 1.0)

    def make_scheduler(self, name: str, steps: int) -> Any:
        """A noise scheduler of the registry, with the model's noise schedule and `steps` timesteps.

        Raises UserError when there is no scheduler of that name, or when the model has fewer timesteps.
        """
        return SCHEDULERS[name].make(self._scheduler_config, steps)

    @torch.inference_mode()
    def denoise(
        self,
        noise: Tensor,
        hidden: Tensor,
        *,
        steps: int,
        guidance: float,
        scheduler: str = "ddim",
        start: Tensor | None = None,
        strength: float = 1.0,
    ) -> Tensor:
        """Sample latents float32 [B, C, h, w] under classifier-free guidance.

        noise: standard normal [B, C, h, w]. hidden: conditioning [B, L, D]. scheduler: a name of SCHEDULERS. Without
        `start`, sampling begins at pure noise. With `start` (scaled latents [B, C, h, w]) it begins at start + noise,
        `strength` of the way up the schedule (SDEdit, Meng et al. 2022; diffusers' img2img): strength·steps denoising
        steps, rounded down.
        ε = ε(∅) + guidance · (ε(h) − ε(∅)) (Ho and Salimans 2022); both come from one pass over a doubled batch, whose
        halves share what does not depend on h (shared_stem.py).
        """
        solver = self.make_scheduler(scheduler, steps)
        timesteps = solver.timesteps
        if start is None:
            latents = noise.to(self.device, torch.float32) * solver.init_noise_sigma
        else:
            first = (steps - num_denoising_steps(steps, strength)) * solver.order
            timesteps = timesteps[first:]
            if hasattr(solver, "set_begin_index"):  # DDIM has no position to set: it goes by the timestep
                solver.set_begin_index(first)
            latents = solver.add_noise(
                start.to(self.device, torch.float32), noise.to(self.device, torch.float32), timesteps[:1]
            )
        guided = guidance != 1.0
        context = hidden.to(self.device, self.dtype)
        if guided:
            context = torch.cat([self.unconditional.to(self.dtype).expand_as(context), context])
        # The timesteps are copied to the device once: a copy in each step would wait for all work queued there.
        with self._stem.sharing(guided) if self._stem else nullcontext():
            for timestep, on_device in zip(timesteps, timesteps.to(self.device), strict=True):
                model_input = solver.scale_model_input(torch.cat([latents, latents]) if guided else latents, timestep)
                model_input = model_input.to(self.dtype, memory_format=torch.channels_last)
                predicted = self.unet(model_input, on_device, encoder_hidden_states=context, return_dict=False)[0]
                predicted = predicted.float()
                if guided:
                    unconditional, conditional = predicted.chunk(2)
                    predicted = unconditional + guidance * (conditional - unconditional)
                latents = solver.step(predicted, timestep, latents, return_dict=False)[0]
        return latents

    def largest_batch_size(self, *, guidance: float, scheduler: str) -> int:
        """Images that `denoise` and `decode` do at once within the memory that is free now; MAX_IMAGES on a CPU."""
        if self.device.type != "cuda":
            return MAX_IMAGES

        def denoise_zeros(count: int) -> None:
            noise, hidden = torch.zeros(count, *self.latent_shape), torch.zeros(count, *self.text_shape)
            self.denoise(noise, hidden, steps=1, guidance=guidance, scheduler=scheduler)

        # Not compiled: that would take minutes for sizes that are never drawn, and compiled passes need no more.
        with torch.compiler.set_stance("force_eager"):
            denoise_zeros(1)  # the first pass also allocates what the libraries keep
            unet = [peak_bytes(partial(denoise_zeros, count), self.device) for count in (1, 2)]
            vae = peak_bytes(lambda: self.decode(torch.zeros(1, *self.latent_shape)), self.device)
        return fitting_batch_size(
            free_bytes(self.device), unet=(unet[0], unet[1]), vae=vae, vae_slice=self.vae.slice_images
        )


def load_latent_diffusion(
    path: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    unet: Path | None = None,
    compile_backend: str | None = None,
) -> LatentDiffusion:
    """LatentDiffusion with the defaults of a plain call: the CPU, float32, the folder's own U-Net, not compiled."""
    return LatentDiffusion(path, device=torch.device(device), dtype=dtype, unet=unet, compile_backend=compile_backend)


def model_digest(model: Path) -> str:
    """16 hex digits over all components that decide an image."""
    return folders_digest(*(component_folder(model, name) for name in COMPONENTS))[:16]
