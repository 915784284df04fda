"""The U-Net of the bundled model: conditional diffusion in the VAE's latents, with CLIP's text tower frozen."""

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from neuroimagen.trainer.bundled_model.clip import TEXT_WIDTH
from neuroimagen.trainer.bundled_model.fitting import fast_matmul, fit
from neuroimagen.trainer.bundled_model.training_stimuli import SIZE_PX, TrainingStimuli, tokenize
from neuroimagen.trainer.bundled_model.vae import encode_latents

CLASS_CAPTION_SHARE = 0.5
CONDITION_DROPOUT = 0.1


def build_unet(vae: AutoencoderKL) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIZE_PX // 8,
        in_channels=vae.config.latent_channels,
        out_channels=vae.config.latent_channels,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(64, 96),
        layers_per_block=1,
        attention_head_dim=4,  # diffusers reads this as the number of heads
        cross_attention_dim=TEXT_WIDTH,
        norm_num_groups=16,
    )


def build_scheduler() -> DDIMScheduler:
    """DDPM's linear betas: the last step keeps 0.6 % of the signal, so sampling from noise has no colour bias."""
    return DDIMScheduler(
        beta_schedule="linear",
        beta_start=1e-4,
        beta_end=0.02,
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="trailing",
    )


class Denoising:
    """The loss of latent diffusion (Rombach et al. 2022): v-prediction, with min-SNR-5 weights."""

    def __init__(self, scheduler: DDIMScheduler) -> None:
        self.scheduler = scheduler
        snr = scheduler.alphas_cumprod / (1 - scheduler.alphas_cumprod)
        self.weight = torch.minimum(snr, torch.tensor(5.0)) / (snr + 1)

    def loss(
        self,
        unet: UNet2DConditionModel,
        latents: Tensor,
        text: Tensor,
        generator: torch.Generator,
        *,
        image: Tensor | None = None,
    ) -> Tensor:
        """The loss at random steps. latents [n, channels, h, w], scaled; text [n, tokens, width]; image, the embedding
        that an IP-Adapter takes, [n, size]."""
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = torch.randint(len(self.weight), (len(latents),), generator=generator)
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        target = self.scheduler.get_velocity(latents, noise, timesteps)
        added = None if image is None else {"image_embeds": [image[:, None]]}
        with fast_matmul():
            predicted = unet(noisy, timesteps, encoder_hidden_states=text, added_cond_kwargs=added).sample
        error = (predicted.float() - target).square().mean((1, 2, 3))
        weight = self.weight[timesteps]
        return (weight * error).sum() / weight.sum()


class CaptionedLatents:
    """What both trainings of the U-Net read: latents and captions of the training stimuli; and their loss."""

    def __init__(self, stimuli: TrainingStimuli, work: Path, *, seed: int) -> None:
        """work: folder with the trained `vae` and `clip`."""
        self.vae = AutoencoderKL.from_pretrained(work / "vae")
        tokenizer = CLIPTokenizer.from_pretrained(work / "clip")
        self.clip = CLIPModel.from_pretrained(work / "clip").eval().requires_grad_(False)
        self.denoising = Denoising(build_scheduler())
        self.generator = torch.Generator().manual_seed(seed)
        self._mean, self._std = encode_latents(self.vae, stimuli, torch.arange(len(stimuli.labels)))
        self._class_tokens = tokenize(tokenizer, stimuli.class_captions)
        self._detailed_tokens = tokenize(tokenizer, stimuli.detailed_captions)
        self._empty = tokenize(tokenizer, [""])

    def draw(self, index: Tensor, *, text_dropout: float) -> tuple[Tensor, Tensor]:
        """Scaled latents [n, channels, h, w] of stimuli, and tokens of a caption of each: of its class, or detailed.

        The share `text_dropout` of them is the empty caption.
        """
        n, generator = len(index), self.generator
        latents = self._mean[index] + self._std[index] * torch.randn(self._mean[index].shape, generator=generator)
        use_class = torch.rand(n, 1, generator=generator) < CLASS_CAPTION_SHARE
        tokens = torch.where(use_class, self._class_tokens[index], self._detailed_tokens[index])
        dropped = torch.rand(n, 1, generator=generator) < text_dropout
        return latents * self.vae.config.scaling_factor, torch.where(dropped, self._empty, tokens)

    @torch.no_grad()
    def text(self, tokens: Tensor) -> Tensor:
        """Hidden states [n, tokens, width]."""
        return self.clip.text_model(input_ids=tokens).last_hidden_state


class AveragedUNet:
    """A copy of a U-Net whose weights are the moving average of its own."""

    def __init__(self, unet: UNet2DConditionModel, save: Callable[[UNet2DConditionModel], None]) -> None:
        """save: writes the average; called every 500 steps."""
        self.average = copy.deepcopy(unet).requires_grad_(False)
        self._unet = unet
        self._save = save

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step`, counted from 0."""
        decay = min(0.999, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.average.parameters()), list(self._unet.parameters()), 1 - decay)
        if (step + 1) % 500 == 0:
            self._save(self.average)


def train_unet(stimuli: TrainingStimuli, work: Path, folder: Path, *, steps: int, seed: int) -> None:
    """Train the U-Net on captions alone, some of them dropped for guidance. Writes the average of its weights."""
    data = CaptionedLatents(stimuli, work, seed=seed)
    unet = build_unet(data.vae)
    unet.set_attn_processor(AttnProcessor())
    averaged = AveragedUNet(unet, lambda average: average.save_pretrained(work / "unet-so-far"))

    def loss_of(index: Tensor) -> Tensor:
        latents, tokens = data.draw(index, text_dropout=CONDITION_DROPOUT)
        return data.denoising.loss(unet, latents, data.text(tokens), data.generator)

    fit(
        "unet",
        list(unet.parameters()),
        loss_of,
        count=len(stimuli.labels),
        batch_size=64,
        steps=steps,
        learning_rate=1e-3,
        seed=seed,
        after_step=averaged.update,
    )
    averaged.average.save_pretrained(folder)
