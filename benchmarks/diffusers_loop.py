"""The loop that diffusers publishes for text-to-image fine-tuning, with everything that affects its speed.

After examples/text_to_image/train_text_to_image.py: accelerate with mixed precision, float32 weights in the U-Net, the
frozen VAE and text encoder in the low precision and in the loop, a PyTorch DataLoader over images, AdamW over the
whole U-Net, gradients clipped at 1, the mean squared error of the noise, a loss that is gathered and read at every
step. Left out are options that the example does not use by default (EMA, min-SNR, xformers, gradient checkpointing) and
the tokenizer, because random weights have no vocabulary: captions are given as tokens.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from neuroimagen.benchmarks.stable_diffusion import DiffusionSizes
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.stimulus_store import StimulusStore
from neuroimagen.data_shards.format.images import square_image

LEARNING_RATE = 1e-5
"""From the example's README; it does not affect the speed."""


class CaptionedImages(TorchDataset[dict[str, Tensor]]):
    """A data set's images, decoded at every visit, cropped, mirrored at random, scaled; tokens for the captions."""

    def __init__(self, stimuli: StimulusStore, sizes: DiffusionSizes) -> None:
        self._stimuli = stimuli
        self._size_px = sizes.image_size_px
        num_tokens, _ = sizes.text_shape
        generator = torch.Generator().manual_seed(0)
        self._tokens = torch.randint(0, sizes.text["vocab_size"], (len(stimuli.keys), num_tokens), generator=generator)

    def __len__(self) -> int:
        return len(self._stimuli.keys)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        pixels = square_image(self._stimuli.image(row), self._size_px)
        if torch.rand(()) < 0.5:
            pixels = np.ascontiguousarray(pixels[:, :, ::-1])
        return {"pixel_values": torch.from_numpy(pixels).float() / 127.5 - 1, "input_ids": self._tokens[row]}


class DiffusersLoop:
    """The loop; each `step()` takes the loader's next batch."""

    def __init__(
        self,
        dataset: Dataset,
        sizes: DiffusionSizes,
        scheduler: dict[str, Any],
        *,
        batch_size: int,
        device: torch.device,
        num_workers: int,
    ) -> None:
        from accelerate import Accelerator
        from diffusers import DDPMScheduler
        from diffusers.optimization import get_scheduler

        low = device.type == "cuda"
        self._accelerator = Accelerator(mixed_precision="bf16" if low else "no", cpu=not low)
        self._dtype = torch.bfloat16 if low else torch.float32
        self._vae = sizes.make_vae(device=device, dtype=self._dtype)
        self._text_encoder = sizes.make_text_encoder(device=device, dtype=self._dtype)
        self._noise_scheduler = DDPMScheduler.from_config(scheduler)
        unet = sizes.make_unet(device=device)
        optimizer = torch.optim.AdamW(unet.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)
        loader = DataLoader(
            CaptionedImages(dataset.stimuli, sizes),
            batch_size=batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
        )
        schedule = get_scheduler("constant", optimizer=optimizer)
        self._unet, self._optimizer, self._loader, self._schedule = self._accelerator.prepare(
            unet, optimizer, loader, schedule
        )
        self._batches = self._endless()
        self.batch_size = batch_size
        self.loss = float("nan")
        """Of the last step."""

    def _endless(self) -> Iterator[dict[str, Tensor]]:
        while True:
            yield from self._loader

    def step(self) -> None:
        batch = next(self._batches)
        with self._accelerator.accumulate(self._unet):
            latents = self._vae.encode(batch["pixel_values"].to(self._dtype)).latent_dist.sample()
            latents = latents * self._vae.config.scaling_factor
            noise = torch.randn_like(latents)
            num_timesteps = self._noise_scheduler.config.num_train_timesteps
            timesteps = torch.randint(0, num_timesteps, (len(latents),), device=latents.device)
            noisy = self._noise_scheduler.add_noise(latents, noise, timesteps)
            hidden = self._text_encoder(batch["input_ids"], return_dict=False)[0]
            predicted = self._unet(noisy, timesteps, hidden, return_dict=False)[0]
            loss = F.mse_loss(predicted.float(), noise.float())
            self.loss = self._accelerator.gather(loss.repeat(self.batch_size)).mean().item()
            self._accelerator.backward(loss)
            if self._accelerator.sync_gradients:
                self._accelerator.clip_grad_norm_(self._unet.parameters(), 1.0)
            self._optimizer.step()
            self._schedule.step()
            self._optimizer.zero_grad()
