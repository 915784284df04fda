"""A frozen latent diffusion model of any supported family: conditions and noise to images, by diffusers' pipelines.

Shapes: B images, S side of an image in px, C latent channels, h×w latent size, L tokens, D width of the hidden states,
P of a pooled embedding, E of an image embedding.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.ip_adapter import IPAdapterConfig, adapters_of
from neuroimagen.data_shards.frozen_models.loading import loading
from neuroimagen.data_shards.frozen_models.model_folder import (
    Component,
    component_folder,
    folders_digest,
    read_config,
    weights_variant,
)
from neuroimagen.data_shards.frozen_models.vae import VaeEncoder
from neuroimagen.trainer.reconstruction.batch_by_memory import MAX_IMAGES, fitting_batch_size, free_bytes, peak_bytes
from neuroimagen.trainer.reconstruction.pipelines.adapters import Adapters, Scale
from neuroimagen.trainer.reconstruction.pipelines.conditioning import UNCLIP, Conditioning
from neuroimagen.trainer.reconstruction.pipelines.model_sizes import read_sizes
from neuroimagen.trainer.reconstruction.pipelines.pipeline_scheduler import PipelineScheduler
from neuroimagen.trainer.reconstruction.schedulers import SCHEDULERS, NoiseScheduler, num_denoising_steps


class Generator:
    """A model folder with its IP-Adapters, for inference.

    The VAE and the text encoders run in float32; the U-Net in `dtype`. Noise and the scheduler's steps are float32.
    Convolutions run channels-last, attention through PyTorch's fused kernels (diffusers' own default).
    """

    def __init__(
        self,
        model: Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        unet: Path | nn.Module | None = None,
        adapters: Mapping[str, IPAdapterConfig] | None = None,
        attached: Mapping[str, int] | None = None,
        compile_backend: str | None = None,
    ) -> None:
        """`model`: the folder. Raises UserError before weights are loaded when its family is not served, when it is
        incomplete, when its components do not belong together, and when an adapter does not fit.

        dtype: of the U-Net. unet: a fine-tuned one in place of the model's own: the folder it is in, or the network,
        which is used as it is. adapters: the recipe's model.ip_adapters; `attached`: of a network, the IP-Adapters that
        it has, in their order: name → width of the image embedding. compile_backend: torch.compile's for the U-Net and
        the VAE's decoder, which are compiled anew for each size of batch; None: neither is compiled.
        """
        unet_folder = unet if isinstance(unet, Path) else component_folder(model, "unet")
        sizes = read_sizes(model, unet=unet_folder, adapters=adapters)
        if isinstance(unet, nn.Module):  # loading adapters would change the network that is being trained
            unclip = {name: size for name, size in sizes.image_sizes.items() if name == UNCLIP}
            sizes = replace(sizes, adapters={}, image_sizes={**unclip, **(attached or {})})
        self.model = model
        self.device = torch.device(device)
        self.dtype = dtype
        self.image_size_px = sizes.image_size_px
        self.latent_shape = sizes.latent_shape
        self.text_shape: tuple[int, int] = sizes.text_shape
        self.pooled_size = sizes.pooled_size
        self.image_sizes = sizes.image_sizes
        self._scheduler_config = read_config(component_folder(model, "scheduler"), "scheduler_config.json")
        self.vae = VaeEncoder(model, device=self.device)
        self.unet: Any = unet if isinstance(unet, nn.Module) else _load_unet(unet_folder, self.device, dtype)

        from neuroimagen.trainer.reconstruction.pipelines.families import FAMILIES

        self.family = FAMILIES[sizes.family](model, unet=self.unet, vae=self.vae.vae, device=self.device)
        self.adapters = Adapters(self.family.pipeline, sizes.adapters, sizes.own_adapters, attached=attached)
        if compile_backend is not None:
            self.unet.compile(backend=compile_backend, dynamic=False)
            self.vae.vae.decoder.compile(backend=compile_backend, dynamic=False)

    @property
    def takes(self) -> frozenset[str]:
        """Which conditions there are: "text", "pooled", "image"."""
        given = {"text": True, "pooled": self.pooled_size is not None, "image": bool(self.image_sizes)}
        return frozenset(name for name, there in given.items() if there)

    def prompt(self, captions: Sequence[str]) -> Conditioning:
        """What captions are to the U-Net: float32, one row for each."""
        return self.family.prompt(captions)

    def encode(self, images: Tensor) -> Tensor:
        """Images [B, 3, S, S] in [-1, 1] → scaled latents [B, C, h, w]: the mode of the posterior."""
        return self.vae.encode(images)

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents [B, C, h, w] → images float32 [B, 3, S, S] in [-1, 1].

        Raises UserError where latents or images are not finite.
        """
        _require_finite(latents, "the latents to decode hold", "They come from a stage whose training has diverged.")
        images = self.vae.decode(latents)
        _require_finite(
            images,
            "the decoded images hold",
            f"The weights of {self.model}/vae are damaged, or were made in float16, which Stable Diffusion's VAE "
            "overflows. Fetch the folder again.",
        )
        return images.clamp(-1.0, 1.0)

    def noise(self, generators: Sequence[torch.Generator]) -> Tensor:
        """Standard normal float32 [B, C, h, w] on the CPU: what denoising starts from, or adds to a start."""
        return torch.stack([torch.randn(self.latent_shape, generator=generator) for generator in generators])

    @torch.inference_mode()
    def denoise(
        self,
        generators: Sequence[torch.Generator],
        conditioning: Conditioning,
        *,
        steps: int,
        guidance: float,
        scheduler: str | None = None,
        start: Tensor | None = None,
        strength: float = 1.0,
        adapter_scale: Scale = 1.0,
        noise_level: int = 0,
    ) -> Tensor:
        """Sample scaled latents float32 [B, C, h, w], one for each generator.

        generators: of the CPU, one for each image, for all that is random of it: first the noise, then what the
        scheduler and an unCLIP model draw. guidance: scale of classifier-free guidance (Ho and Salimans 2022); 0 and 1:
        none, and no doubled batch. scheduler: a name of SCHEDULERS; None: the folder's own. start: scaled latents
        [B, C, h, w] that denoising starts from, with noise added, `strength` of the way up the schedule: strength·steps
        steps, rounded down; None: from pure noise. adapter_scale: of the IP-Adapters (adapters.py), which see no image
        where `conditioning` has none. noise_level: timestep up to which noise is added to an unCLIP model's embedding.
        """
        count = len(generators)
        self._require_settings(guidance=guidance, steps=steps, strength=None if start is None else strength)
        self._require_conditions(conditioning, count, start)
        solver = PipelineScheduler(
            self._make_scheduler(scheduler, steps),
            steps=steps,
            strength=None if start is None else strength,
            device=self.device,
        )
        noise = self.noise(generators).to(self.device)
        latents = solver.starting_latents(noise, None if start is None else start.to(self.device, torch.float32))
        solver.draw_seeds(generators)
        pipeline = self.family.pipeline
        # What the pipeline itself goes by: guidance that a distilled U-Net takes as a number needs no second branch.
        guided = guidance > 1.0 and self.unet.config.time_cond_proj_dim is None
        arguments = self.family.arguments(conditioning, count, guided=guided, noise_level=noise_level)
        arguments |= self.adapters.arguments(
            conditioning.image, count, guided=guided, scale=adapter_scale, dtype=self.dtype
        )
        own, pipeline.scheduler = pipeline.scheduler, solver
        try:
            latents = pipeline(
                **arguments,
                latents=latents,
                generator=list(generators),
                num_inference_steps=steps,
                guidance_scale=guidance,
                output_type="latent",
            ).images
        finally:
            pipeline.scheduler = own
        # One look, at the end: each waits for all work that is queued on the device.
        if not torch.isfinite(latents).all():
            self._require_finite_conditions(conditioning, start)
            _require_finite(
                latents,
                "the denoised latents hold",
                f"The U-Net of {self.model} overflows in {str(self.dtype).removeprefix('torch.')}, or its weights are "
                "damaged. Use reconstruct.dtype=bfloat16 or float32.",
            )
        return latents

    def _make_scheduler(self, name: str | None, steps: int) -> Any:
        if name is None:
            own = self.family.pipeline.scheduler
            return NoiseScheduler(scheduler_class=type(own)).make(own.config, steps)
        return SCHEDULERS[name].make(self._scheduler_config, steps)

    @staticmethod
    def _require_settings(*, guidance: float, steps: int, strength: float | None) -> None:
        """Raise UserError for settings that mean nothing."""
        if not (guidance in (0.0, 1.0) or 1.0 < guidance < float("inf")):
            raise UserError(f"guidance must be 0 or 1 (none), or above 1, got {guidance}.")
        if strength is not None and num_denoising_steps(steps, strength) < 1:
            raise UserError(f"strength {strength} × {steps} steps leaves no denoising step. Raise one of them.")

    def _require_conditions(self, conditioning: Conditioning, count: int, start: Tensor | None) -> None:
        """Raise UserError for conditions that the model does not take."""
        if unknown := sorted(set(conditioning.image) - set(self.image_sizes)):
            raise UserError(
                f"{self.model} takes no image embedding {', '.join(unknown)}; it takes "
                f"{', '.join(self.image_sizes) or 'none'}. Name it in model.ip_adapters."
            )
        if conditioning.pooled is not None and self.pooled_size is None:
            raise UserError(f"{self.model} takes no pooled embedding of the caption: it is no SDXL model.")
        wanted: dict[str, tuple[int, ...]] = {"the text condition": (count, *self.text_shape)}
        wanted["the pooled text condition"] = (count, self.pooled_size or 0)
        wanted |= {f"the image condition {name!r}": (count, size) for name, size in self.image_sizes.items()}
        wanted["the start"] = (count, *self.latent_shape)
        given = conditioning.tensors() | ({} if start is None else {"the start": start})
        for name, tensor in given.items():
            if tuple(tensor.shape) != wanted[name]:
                raise UserError(f"{name} has the shape {tuple(tensor.shape)}, {self.model} takes {wanted[name]}.")

    @staticmethod
    def _require_finite_conditions(conditioning: Conditioning, start: Tensor | None) -> None:
        """Raise UserError where a condition or the start holds numbers that are none."""
        given = conditioning.tensors() | ({} if start is None else {"the start": start})
        for name, tensor in given.items():
            _require_finite(tensor, f"{name} holds", "Train the stage that predicts it again: it has diverged.")

    def largest_batch_size(self, *, guidance: float, scheduler: str | None = None) -> int:
        """Images that `denoise` and `decode` do at once within the memory that is free now; MAX_IMAGES on a CPU."""
        if self.device.type != "cuda":
            return MAX_IMAGES

        def denoise_zeros(count: int) -> None:
            conditioning = Conditioning(
                text=torch.zeros(count, *self.text_shape),
                pooled=None if self.pooled_size is None else torch.zeros(count, self.pooled_size),
                image={name: torch.zeros(count, size) for name, size in self.image_sizes.items()},
            )
            generators = [torch.Generator().manual_seed(0) for _ in range(count)]
            self.denoise(generators, conditioning, steps=1, guidance=guidance, scheduler=scheduler)

        # Not compiled: that would take minutes for sizes that are never drawn, and compiled passes need no more.
        with torch.compiler.set_stance("force_eager"):
            denoise_zeros(1)  # the first pass also allocates what the libraries keep
            unet = [peak_bytes(partial(denoise_zeros, count), self.device) for count in (1, 2)]
            vae = peak_bytes(lambda: self.decode(torch.zeros(1, *self.latent_shape)), self.device)
        return fitting_batch_size(
            free_bytes(self.device), unet=(unet[0], unet[1]), vae=vae, vae_slice=self.vae.slice_images
        )


def model_digest(model: Path, adapters: Mapping[str, IPAdapterConfig] | None = None) -> str:
    """16 hex digits over all that decides an image: the components of a model folder, and its IP-Adapters.

    Adapters that a run trains do not count: they are in the export of a stage, as the recipe's new ones are.
    """
    others = [model / name for name in _FAMILY_COMPONENTS if (model / name).is_dir()]
    digest = folders_digest(*(component_folder(model, name) for name in _COMPONENTS), *others)
    files = {name: config for name, config in adapters_of(model, adapters or {}).items() if not config.is_new}
    if files:
        parts = [digest, *(f"{name} {config.read().digest()}" for name, config in sorted(files.items()))]
        digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return digest[:16]


_COMPONENTS: tuple[Component, ...] = ("vae", "unet", "text_encoder", "tokenizer", "scheduler")
_FAMILY_COMPONENTS = ("text_encoder_2", "tokenizer_2", "image_normalizer", "image_noising_scheduler")


def _load_unet(folder: Path, device: torch.device, dtype: torch.dtype) -> Any:
    from diffusers import UNet2DConditionModel

    with loading(folder):
        network = UNet2DConditionModel.from_pretrained(
            folder, use_safetensors=True, dtype=dtype, variant=weights_variant(folder)
        )
        # Here, because weights that the file lacks are found out only now: they are not on any device yet.
        network = network.to(device=device, memory_format=torch.channels_last).eval().requires_grad_(False)
    if dtype != torch.float32:
        # Latents, guidance and steps stay in float32: a guidance of 5 would multiply the rounding of both branches.
        network.register_forward_pre_hook(_lowered, with_kwargs=True)
        network.register_forward_hook(_raised)
    return network


def _lowered(network: Any, inputs: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inputs of a U-Net in its own dtype."""
    sample, *others = inputs
    guidance = options.get("timestep_cond")
    if guidance is not None:
        options = {**options, "timestep_cond": guidance.to(network.dtype)}
    return (sample.to(network.dtype), *others), options


def _raised(network: Any, inputs: tuple[Any, ...], outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The outputs of a U-Net in float32."""
    return tuple(output.float() for output in outputs)


def _require_finite(tensor: Tensor, holds: str, cause: str) -> None:
    """Raise UserError with the cause where a number is NaN or infinite: it must not become a picture."""
    finite = torch.isfinite(tensor).flatten(1).all(1)
    if not finite.all():
        rows = (~finite).nonzero().flatten().tolist()
        raise UserError(
            f"{holds} NaN or infinite numbers in {len(rows)} of {len(tensor)} images (the first is image {rows[0]} of "
            f"the batch). {cause}"
        )
