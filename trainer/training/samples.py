"""Images drawn while a stage trains: always of the same validation segments, from the same noise.

They show that a run goes wrong long before its figures do. Drawing does not change training: all noise comes from
generators of its own, and PyTorch's generators are restored after a model was loaded.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from neuroimagen.data_shards.frozen_models.vae import VaeEncoder
from neuroimagen.trainer.batches.stage_data import StageData
from neuroimagen.trainer.networks.pixels import to_uint8
from neuroimagen.trainer.networks.randomness import derive_seed
from neuroimagen.trainer.reconstruction.pipelines.conditioning import Conditioning
from neuroimagen.trainer.reconstruction.pipelines.generator import Generator
from neuroimagen.trainer.stages.base import SampledStage

_GAP_PX = 2


@dataclass(frozen=True, kw_only=True)
class ImageSampler:
    """Draws what a model folder makes of hidden states, as `neuroimagen reconstruct` does from pure noise."""

    model: Path
    steps: int
    guidance: float
    scheduler: str | None

    def draw(
        self,
        hidden: Tensor,
        rows: np.ndarray,
        *,
        pooled: Tensor | None = None,
        unet: nn.Module | None = None,
        image: Mapping[str, Tensor] | None = None,
    ) -> np.ndarray:
        """Images uint8 [n, 3, S, S] of hidden states [n, L, D] that belong to `rows` of the index.

        pooled: [n, P], where the U-Net takes pooled states. unet: the network that is being trained, in place of the
        folder's own; it is used as it is. image: name of each IP-Adapter that it has, in their order → embeddings
        [n, E]. The folder's are loaded again each time, so that training has their memory in between.
        """
        image = {} if image is None else {name: embedding.float() for name, embedding in image.items()}
        attached = {name: embedding.shape[1] for name, embedding in image.items()}
        generator = Generator(self.model, device=hidden.device, unet=unet, attached=attached)
        generators = [torch.Generator().manual_seed(derive_seed("samples", row)) for row in rows.tolist()]
        conditioning = Conditioning(text=hidden.float(), pooled=None if pooled is None else pooled.float(), image=image)
        latents = generator.denoise(
            generators, conditioning, steps=self.steps, guidance=self.guidance, scheduler=self.scheduler
        )
        return to_uint8(generator.decode(latents))

    def decode(self, latents: Tensor) -> np.ndarray:
        """Images uint8 [n, 3, S, S] that the model folder's VAE makes of scaled latents [n, C, h, w]."""
        return to_uint8(VaeEncoder(self.model, device=latents.device).decode(latents).clamp(-1.0, 1.0))


def draw_samples(stage: SampledStage, networks: Mapping[str, nn.Module], data: StageData) -> np.ndarray:
    """What the stage draws of its validation segments, below their stimuli: a grid uint8 [H, W, 3].

    Called by one rank alone; `networks` are whole and in evaluation mode.
    """
    rows = data.rows("val")
    rows = rows[np.linspace(0, len(rows) - 1, min(stage.config.num_samples, len(rows))).round().astype(int)]
    devices = [data.device] if data.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        eeg = torch.from_numpy(np.stack([data.dataset.eeg(int(row)) for row in rows])).to(data.device)
        subject = torch.from_numpy(data.dataset.index.subject[rows].astype(np.int64)).to(data.device)
        drawn = stage.draw(networks, eeg, subject, rows)
    stimuli = data.dataset.stimuli.images(data.dataset.index.stimulus[rows], drawn.shape[-1])
    return joined_grid([stimuli, drawn])


def joined_grid(lines: list[np.ndarray]) -> np.ndarray:
    """Lines of images, each uint8 [n, 3, S, S], as one image [H, W, 3] with white gaps."""
    framed = [np.pad(line, ((0, 0), (0, 0), (0, _GAP_PX), (0, _GAP_PX)), constant_values=255) for line in lines]
    grid = np.concatenate([line.transpose(2, 0, 3, 1).reshape(line.shape[2], -1, 3) for line in framed])
    return grid[:-_GAP_PX, :-_GAP_PX]
